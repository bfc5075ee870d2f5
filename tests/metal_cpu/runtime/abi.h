/* The C interface of a compiled Metal library: what a host (Python through ctypes, or the extension module)
 * calls.
 *
 * Every compiled .metal file is a shared object that exports the functions below. They may be called from any
 * thread; launches of one library run one after another. A launch never throws, and never ends the process
 * for a fault it can describe: faults are counted and put into words in the report.
 */
#pragma once

#include <stdint.h>

#define MSL_ABI_VERSION 1
#define MSL_MAX_BUFFERS 31
#define MSL_MESSAGE_BYTES 4096
#define MSL_OPERATION_CLASSES 8

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  void* data; /* null: not bound */
  uint64_t bytes;
  int32_t
      read_only; /* bytes given with the launch (setBytes), which no kernel may have as a writable argument */
} MslBuffer;

typedef struct {
  int32_t index;
  int32_t bytes;
  const void* value;
} MslConstant;

typedef struct {
  const char* kernel;
  const MslBuffer* buffers;
  int32_t num_buffers;
  const MslConstant* constants;
  int32_t num_constants;
  uint32_t groups[3];  /* threadgroups of the grid */
  uint32_t threads[3]; /* threads of a threadgroup */
  uint32_t grid[3]; /* threads of the grid where its edge threadgroups are smaller; all 0: groups * threads */
} MslLaunch;

/* What msl_launch returns. Faults of the `traced` flavour that a kernel survives do not change it. */
enum {
  MSL_OK = 0,
  MSL_NO_SUCH_KERNEL = 1,
  MSL_BAD_SIZE = 2,  /* no threads, or more than 1024 in a threadgroup, or too many buffers */
  MSL_DIVERGED = 3,  /* threads met at different barriers or SIMD-group functions, or wait for ever */
  MSL_CRASHED = 4,   /* a wild pointer, a misaligned vector access or a stack overflow */
  MSL_NOT_BOUND = 5, /* a kernel argument without its buffer, with a smaller one than its type, or writable
                        with a read-only one */
  MSL_LIMIT_EXCEEDED = 6 /* threadgroup memory over the machine's 32 KiB */
};

/* Classes of MslReport.operations, executed by all lanes together (`counted` flavour). */
enum {
  MSL_OP_FLOAT = 0,          /* additions, subtractions, multiplications; a fused multiply-add is two */
  MSL_OP_DIVIDE = 1,         /* float divisions and square roots */
  MSL_OP_TRANSCENDENTAL = 2, /* exp, log, tanh, ... */
  MSL_OP_INTEGER = 3,        /* integer arithmetic, shifts, logic; addresses included */
  MSL_OP_SELECT = 4,         /* comparisons and selections, float and integer */
  MSL_OP_CONVERT = 5,        /* between number formats */
  MSL_OP_LOAD = 6,           /* load instructions, any address space but a thread's own */
  MSL_OP_STORE = 7
};

typedef struct {
  uint64_t bytes;                    /* size of the operand as bound; 0: not bound */
  uint64_t loaded, stored;           /* SIMD-unique bytes: a broadcast within a SIMD-group counts once */
  uint64_t lane_loaded, lane_stored; /* bytes over all lanes: a broadcast counts 32 times */
  uint64_t load_instructions, store_instructions; /* SIMD instructions */
  uint64_t load_segments, load_segments_ideal;    /* 64-byte segments: fetched; ceil(unique bytes / 64) */
  uint64_t store_segments, store_segments_ideal;
  uint64_t footprint_loaded, footprint_stored; /* distinct 64-byte lines of the launch, in bytes */
} MslTraffic;

typedef struct {
  uint32_t version; /* MSL_ABI_VERSION */
  int32_t error;    /* what msl_launch returned */

  /* Faults. Races, out_of_bounds, uninitialised and misaligned are looked for in the `traced` flavour only.
   */
  uint64_t races;
  uint64_t out_of_bounds;
  uint64_t uninitialised; /* reads of threadgroup memory nobody wrote */
  uint64_t divergences;
  uint64_t misaligned;
  uint64_t over_limit; /* threadgroups that asked for more than 32 KiB */

  /* Totals. A barrier counts once per threadgroup, a collective once per SIMD-group. */
  uint64_t threads;
  uint64_t threadgroups;
  uint64_t barriers;
  uint64_t simd_barriers;
  uint64_t collectives;                            /* sums, shuffles, ballots, matrix products and copies */
  uint64_t matrix_multiplies;                      /* of the collectives: 8 x 8 x 8 products */
  uint64_t threadgroup_bytes;                      /* the most one threadgroup held */
  uint64_t threadgroup_loaded, threadgroup_stored; /* lane-bytes of threadgroup memory (`traced`) */
  uint64_t bank_cycles, bank_cycles_ideal;         /* of threadgroup memory: 32 banks of 4 bytes (`traced`) */
  uint64_t operations[MSL_OPERATION_CLASSES];      /* (`counted`) */

  MslTraffic buffers[MSL_MAX_BUFFERS]; /* (`traced`) */

  char messages[MSL_MESSAGE_BYTES]; /* the first faults in words, one per line */
} MslReport;

/* 1 when the library has a kernel of this name. */
int msl_has_kernel(const char* name);

/* The names of all kernels, one per line. The string lives as long as the library. */
const char* msl_kernels(void);

/* Runs a launch to its end: MSL_OK or an error above. `report` may be null; errors then go to stderr. */
int msl_launch(const MslLaunch* launch, MslReport* report);

#ifdef __cplusplus
}
#endif
