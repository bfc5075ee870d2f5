#pragma once

#include "common/primitive.h"

namespace ghost {

// The weights of a fact memory, float32, in this order, and after them three tables over bytes: fold (257,)
// int32, byte_hash (257,) uint32 and word (257,) int32.
struct FactWeights {
  mx::array byte_embedding;  // (257, byte_dim)
  mx::array gram_in;         // (hidden, 4 byte_dim)
  mx::array gram_bias;
  mx::array gram_out;     // (key_dim, hidden)
  mx::array gate_gram;    // (3, hidden)
  mx::array gate_hidden;  // (3, dim)
  mx::array gate_bias;
  mx::array score_scale;
  mx::array null_score;
  mx::array hit_hidden;  // (1, dim)
  mx::array hit_before;  // (hit_width, 4 byte_dim)
  mx::array hit_out;     // (1, hit_width)
  mx::array hit_bias;
  mx::array start_in;   // (start_width, dim + 2)
  mx::array start_out;  // (1, start_width)
  mx::array start_bias;
  mx::array position_scale;
  mx::array value_embedding;  // (value_dim, 256)
  mx::array read_out;         // (reads, dim, value_dim)
  mx::array read_gate;        // (reads, dim + 6)
  mx::array read_gate_bias;
  mx::array copy_scale;
  mx::array fold;
  mx::array byte_hash;
  mx::array word;
  uint32_t hash_base;
};

FactWeights fact_weights(const Arrays& arrays, uint32_t hash_base);

// One byte of every stream of a batch, at once and on the calling thread, as FactMemory computes it; returned
// arrays are evaluated. There are no gradients.
//
// address: h (batch, 1, dim), tokens (batch, 1) int32; the table: keys, key_length, key_hash, values,
// value_context, value_length, bags; the state: window, bag, hit_row, hit_log, hit_age, start, rows,
// log_weights. Returns readout (batch, 1, value_dim), copy (batch, 1, 256), inside (batch, 1), features
// (batch, 1, 6), and the state after the byte.
Arrays fact_address_step(const FactWeights& weights, const Arrays& inputs);

// h, readout, inside and features; returns h plus what read `index` adds.
mx::array fact_read_step(const FactWeights& weights, const Arrays& inputs, int index);

// logits (batch, 1, 256), copy and inside; returns the logits with the pointer added.
mx::array fact_copy_step(const FactWeights& weights, const Arrays& inputs);

}  // namespace ghost
