// How the CUDA kernels around instance norm are launched: pure functions make these plans, and the
// launch functions use them as they are.
#pragma once

#include "types.h"

namespace cyclegan_fast {

// One kernel over a tensor that it sees as planes x pixels x vectors of elements. A plane is one
// channel of an image (NCHW), or an image whose pixels are vectors of channels (NHWC).
struct TiledPass {
  LaunchConfig launch;
  int vec;             // elements of a vector: 16 bytes' worth, or 1
  int vectors;         // of neighbouring channels that a block covers (1 for NCHW): a power of two
                       // <= 32
  int group;           // threads that share a plane: a block has launch.block / group planes
  int64_t tiles;       // blocks across the channels of an image (1 for NCHW)
  int64_t chunks;      // blocks across the pixels of a plane
  int64_t chunk_size;  // pixels of a block
};

enum class NormRegime : int8_t {
  kResident,  // a plane (NCHW), or some channels of an image (NHWC), stays in the registers of a
              // group of threads or of a cluster of blocks: one read, one write
  kSplit,     // many blocks sum a chunk of pixels each; then the writing pass, whose blocks merge
              // the chunks of their channels themselves
  kMap        // the writing pass alone: given or constant statistics
};

struct NormPlan {
  NormRegime regime;
  TiledPass sums;             // kSplit
  TiledPass write;            // kResident: chunks are the blocks of a cluster
  LaunchConfig affine_grads;  // backward, where the gradients of weight or bias are needed
  int64_t workspace_bytes;    // partial results
};

}  // namespace cyclegan_fast
