#include <cstring>

#include "common/dispatch.h"
#include "common/parallel.h"
#include "embedding/embedding.h"
#include "embedding/embedding_kernels.h"

namespace ghost {
namespace {

constexpr int64_t kTileTokens = 256;  // rows copied per task
constexpr int64_t kTileVocab = 4;     // rows of the table summed per task; few, as some tokens are frequent

template <class T>
void forward(const Arrays& in, mx::array& y) {
  const int64_t vocab = in[0].shape(0);
  const int64_t dim = in[0].shape(1);
  const auto n = static_cast<int64_t>(in[1].size());
  const size_t bytes = static_cast<size_t>(dim) * sizeof(T);
  parallel_for((n + kTileTokens - 1) / kTileTokens, [&](int64_t tile) {
    for (int64_t i = tile * kTileTokens; i < std::min(n, (tile + 1) * kTileTokens); ++i) {
      const int32_t token = in[1].data<int32_t>()[i];
      T* to = out_ptr<T>(y) + i * dim;
      if (token < 0 || token >= vocab) {
        std::memset(to, 0, bytes);
      } else {
        std::memcpy(to, in_ptr<T>(in[0]) + token * dim, bytes);
      }
    }
  });
}

// A stable counting sort gives every row of the table its own list of positions, so that rows are summed in
// parallel and each in order.
template <class T>
void backward(const Arrays& in, mx::array& dweight) {
  const int64_t vocab = in[2].shape(0);
  const int64_t dim = in[2].shape(1);
  const int32_t* tokens = in[1].data<int32_t>();
  const auto n = static_cast<int32_t>(in[1].size());
  const auto valid = [&](int32_t i) { return tokens[i] >= 0 && tokens[i] < vocab; };
  std::vector<int32_t> start(static_cast<size_t>(vocab) + 2);
  for (int32_t i = 0; i < n; ++i) {
    if (valid(i)) ++start[static_cast<size_t>(tokens[i]) + 2];
  }
  for (size_t v = 2; v < start.size(); ++v) start[v] += start[v - 1];
  std::vector<int32_t> positions(static_cast<size_t>(n));
  for (int32_t i = 0; i < n; ++i) {
    if (valid(i)) positions[static_cast<size_t>(start[static_cast<size_t>(tokens[i]) + 1]++)] = i;
  }
  const auto sum_rows = embedding_kernels().get<T>().sum_rows;
  parallel_for((vocab + kTileVocab - 1) / kTileVocab, [&](int64_t tile) {
    for (int64_t v = tile * kTileVocab; v < std::min(vocab, (tile + 1) * kTileVocab); ++v) {
      const int32_t begin = start[static_cast<size_t>(v)];
      sum_rows(in_ptr<T>(in[0]), positions.data() + begin, start[static_cast<size_t>(v) + 1] - begin, dim,
               out_ptr<T>(dweight) + v * dim);
    }
  });
}

}  // namespace

void Embedding::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { forward<T>(in, out[0]); });
  });
}

void EmbeddingGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { backward<T>(in, out[0]); });
  });
}

}  // namespace ghost
