#include <algorithm>

#include "common/bindings.h"
#include "decode_step/decode_facts.h"
#include "decode_step/decode_step.h"

namespace ghost {
namespace {

// Whether these are the same arrays: no other ones, and none changed in place.
bool same_arrays(const Arrays& a, const Arrays& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const mx::array& x, const mx::array& y) { return x.id() == y.id(); });
}

// The weights of a model for decode_step, and the arrays they were made of.
struct DecodeModel {
  Arrays sources;
  std::shared_ptr<const DecodeWeights> weights;
};

// The weights of a fact memory, and the arrays they were made of.
struct DecodeFacts {
  Arrays sources;
  FactWeights weights;
};

}  // namespace

void bind_decode_step(nb::module_& m) {
  m.def("decode_available", &decode_available, "arrays"_a);
#if !defined(GHOST_METAL_EMULATED)
  nb::class_<DecodeModel>(m, "DecodeModel")
      .def(
          "__init__",
          [](DecodeModel* self, Arrays sources, const DecodeParts& model,
             const std::vector<DecodeParts>& layers, int head_dim, int stride, float eps, bool routing,
             int min_depth, int max_depth, float threshold) {
            const DecodeConfig config{head_dim, stride, eps, routing, min_depth, max_depth, threshold};
            new (self) DecodeModel{std::move(sources), decode_weights(model, layers, config)};
          },
          "sources"_a, "model"_a, "layers"_a, nb::kw_only(), "head_dim"_a, "stride"_a, "eps"_a, "routing"_a,
          "min_depth"_a, "max_depth"_a, "threshold"_a)
      .def(
          "made_of",
          [](const DecodeModel& self, const Arrays& arrays) { return same_arrays(self.sources, arrays); },
          "arrays"_a)
      .def(
          "step",
          [](const DecodeModel& self, const Arrays& inputs, int first, int last, bool front,
             const std::string& activation) -> std::optional<Arrays> {
            const DecodePiece piece{first, last, front, parse_activation("decode_step", activation, true)};
            if (!decode_available(inputs) || !prefill_available(*self.weights, piece.activation))
              return std::nullopt;
            nb::gil_scoped_release release;
            return decode_step(*self.weights, piece, inputs);
          },
          "inputs"_a, "first"_a, "last"_a, "front"_a, "activation"_a = "float32");
  nb::class_<DecodeFacts>(m, "DecodeFacts")
      .def(
          "__init__",
          [](DecodeFacts* self, Arrays sources, const Arrays& weights, uint32_t hash_base) {
            new (self) DecodeFacts{std::move(sources), fact_weights(weights, hash_base)};
          },
          "sources"_a, "weights"_a, "hash_base"_a)
      .def(
          "made_of",
          [](const DecodeFacts& self, const Arrays& arrays) { return same_arrays(self.sources, arrays); },
          "arrays"_a)
      .def(
          "address",
          [](const DecodeFacts& self, const Arrays& inputs) {
            nb::gil_scoped_release release;
            return fact_address_step(self.weights, inputs);
          },
          "inputs"_a)
      .def(
          "read",
          [](const DecodeFacts& self, const Arrays& inputs, int index) {
            nb::gil_scoped_release release;
            return fact_read_step(self.weights, inputs, index);
          },
          "inputs"_a, "index"_a)
      .def(
          "copy",
          [](const DecodeFacts& self, const Arrays& inputs) {
            nb::gil_scoped_release release;
            return fact_copy_step(self.weights, inputs);
          },
          "inputs"_a);
#endif
}

}  // namespace ghost
