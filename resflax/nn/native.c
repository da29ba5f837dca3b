/* Convolutions, the gradients of their kernels, and sums for normalisation, for XLA:CPU in float32, channels last.

   Eigen, which XLA:CPU has for convolutions, copies the window of every output before it multiplies, and for a kernel's
   gradient wants both arguments transposed. Here a tile of results stays in vector registers, and products of one number of an
   image with a vector of features are added to it, read where they lie: an 8 by 2 tile of vectors is 16 independent sums,
   enough to hide how long an addition takes. Sums for normalisation read their arguments once, where XLA:CPU first writes what
   is to be summed.

   XLA calls the functions at the end, through its FFI (xla/ffi/api/c_api.h); resflax/nn/native.py compiles and calls them.
   Their last dimension is a multiple of 16. */

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xla/ffi/api/c_api.h"

#if defined(__AVX512F__)
enum { LANES = 16, REGISTERS = 32 };
#elif defined(__AVX__)
enum { LANES = 8, REGISTERS = 16 };
#elif defined(__ARM_NEON)
enum { LANES = 4, REGISTERS = 32 };
#else
enum { LANES = 4, REGISTERS = 16 };
#endif
enum { LONG = REGISTERS / 2, WIDE = REGISTERS / 4 }; /* tiles: LONG by 1 vector, WIDE by 2 */
enum { PARTS = 16 }; /* at most, of a batch: so many threads share a sum; always as many, for the same bits with any number */
enum { CACHED = 128 * 1024 / sizeof(float) }; /* numbers that are read again and again, at home in a core's own cache */

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef struct Call Call;

struct Call {
  void (*unit)(const Call *call, int64_t n, float *scratch); /* computes the n-th of `units`, which depend on nothing */
  void (*finish)(const Call *call);                          /* makes the result of `partial`; NULL: units have written it */
  int64_t units, scratch, partials;                          /* floats of a worker's own, and of all units together */
  const float *x, *second, *third;                           /* the arguments */
  float *result, *partial;
  int64_t sets, batch, height, width, channels;              /* of the images */
  int64_t rows, columns, features;                           /* of the outputs */
  int64_t taps[2], stride[2], padding[2], dilation[2];       /* of rows and columns */
  int64_t block, blocks;                                     /* rows of outputs in a unit, units in an image */
  int64_t parts, places;                                     /* of a set; places are vectors of channels */
  const XLA_FFI_Api *api;
  XLA_FFI_Future *future; /* NULL: nobody waits */
  atomic_llong next, started, working;
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* How many inputs the taps reach from the first of `outputs` to the last. */
static int64_t reach(const Call *call, int axis, int64_t outputs) {
  return (outputs - 1) * call->stride[axis] + (call->taps[axis] - 1) * call->dilation[axis] + 1;
}

/* ---- Convolution. A unit is a block of rows of one image, copied with its padding so that no tap asks for the edge. */

static inline __attribute__((always_inline)) void outputs_tile(const int count, const int vectors, const Call *call,
                                                               int64_t width, const float *x, const float *kernel, float *y) {
  const int64_t channels = call->channels, features = call->features, step = call->stride[1] * channels;
  Vector sums[LONG][2] = {0};
  for (int64_t i = 0; i < call->taps[0]; i++)
    for (int64_t j = 0; j < call->taps[1]; j++) {
      const float *from = x + (i * call->dilation[0] * width + j * call->dilation[1]) * channels;
      for (int64_t c = 0; c < channels; c++, from++, kernel += features)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
          const Vector weights = *(const Vector *)(kernel + v * LANES);
#pragma GCC unroll 16
          for (int n = 0; n < count; n++) sums[n][v] += from[n * step] * weights;
        }
    }
#pragma GCC unroll 16
  for (int n = 0; n < count; n++)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) *(Vector *)(y + n * features + v * LANES) = sums[n][v];
}

static void copy_padded(const Call *call, const float *image, int64_t top, int64_t height, int64_t width, float *padded) {
  const int64_t channels = call->channels, skipped = most(0, -call->padding[1]);
  const int64_t before = least(width, most(0, call->padding[1]));
  const int64_t copied = most(0, least(call->width - skipped, width - before));
  for (int64_t row = top; row < top + height; row++, padded += width * channels) {
    const int64_t used = row < 0 || row >= call->height ? 0 : copied;
    memset(padded, 0, before * channels * sizeof(float));
    const float *from = image + (row * call->width + skipped) * channels; /* not read where nothing is used */
    if (used) memcpy(padded + before * channels, from, used * channels * sizeof(float));
    memset(padded + (before + used) * channels, 0, (width - before - used) * channels * sizeof(float));
  }
}

static void outputs_unit(const Call *call, int64_t n, float *padded) {
  const int64_t channels = call->channels, features = call->features, columns = call->columns;
  const int64_t image = n / call->blocks, first = n % call->blocks * call->block, rows = least(call->block, call->rows - first);
  const int64_t width = reach(call, 1, columns), top = first * call->stride[0] - call->padding[0];
  const float *kernel = call->second + image / call->batch * call->taps[0] * call->taps[1] * channels * features;
  copy_padded(call, call->x + image * call->height * call->width * channels, top, reach(call, 0, rows), width, padded);
  for (int64_t row = 0; row < rows; row++) {
    const float *x = padded + row * call->stride[0] * width * channels;
    float *y = call->result + ((image * call->rows + first + row) * columns) * features;
    int64_t f = 0, o;
#define TILES(COUNT, VECTORS)                   \
  for (; o + (COUNT) <= columns; o += (COUNT)) \
  outputs_tile(COUNT, VECTORS, call, width, x + o * call->stride[1] * channels, kernel + f, y + o * features + f)
    for (; f + 2 * LANES <= features; f += 2 * LANES) {
      o = 0;
      TILES(WIDE, 2);
      TILES(4, 2);
      TILES(1, 2);
    }
    for (; f < features; f += LANES) {
      o = 0;
      TILES(LONG, 1);
      TILES(4, 1);
      TILES(1, 1);
    }
  }
}

/* ---- Gradient of the kernel. A unit is a part of the batch, with sums of its own. */

typedef struct { /* the places whose products are summed, and how far apart they lie in the images and in the outputs */
  int64_t images, rows, columns, x_image, x_row, x_column, dy_image, dy_row, dy_column;
} Places;

static inline __attribute__((always_inline)) void kernel_tile(const int count, const Places *at, const float *x,
                                                              const float *dy, float *result, int64_t features) {
  Vector sums[LONG] = {0};
  for (int64_t image = 0; image < at->images; image++)
    for (int64_t row = 0; row < at->rows; row++) {
      const float *from = x + image * at->x_image + row * at->x_row, *to = dy + image * at->dy_image + row * at->dy_row;
      for (int64_t column = 0; column < at->columns; column++, from += at->x_column, to += at->dy_column) {
        const Vector gradient = *(const Vector *)to;
#pragma GCC unroll 16
        for (int c = 0; c < count; c++) sums[c] += from[c] * gradient;
      }
    }
#pragma GCC unroll 16
  for (int c = 0; c < count; c++) *(Vector *)(result + c * features) += sums[c];
}

/* The first output, from 0 on, that a tap reads at input `bound` or behind it; output o is read at o * stride + offset. */
static int64_t first_output(int64_t bound, int64_t offset, int64_t stride) {
  return bound <= offset ? 0 : (bound - offset + stride - 1) / stride;
}

static void add_kernel_gradient(const Call *call, int64_t images, const float *x, const float *dy, float *result) {
  const int64_t channels = call->channels, features = call->features;
  for (int64_t begin = 0; begin < call->rows; begin += call->block)
    for (int64_t i = 0; i < call->taps[0]; i++)
      for (int64_t j = 0; j < call->taps[1]; j++) {
        const int64_t down = i * call->dilation[0] - call->padding[0], right = j * call->dilation[1] - call->padding[1];
        const int64_t row = most(begin, first_output(0, down, call->stride[0]));
        const int64_t below = first_output(call->height, down, call->stride[0]);
        const int64_t rows = least(least(begin + call->block, call->rows), below) - row;
        const int64_t column = first_output(0, right, call->stride[1]);
        const int64_t columns = least(call->columns, first_output(call->width, right, call->stride[1])) - column;
        if (rows <= 0 || columns <= 0) continue;
        const Places at = {
            .images = images, .rows = rows, .columns = columns,
            .x_image = call->height * call->width * channels, .x_row = call->stride[0] * call->width * channels,
            .x_column = call->stride[1] * channels,
            .dy_image = call->rows * call->columns * features, .dy_row = call->columns * features, .dy_column = features,
        };
        const int64_t input_row = row * call->stride[0] + down, input_column = column * call->stride[1] + right;
        const float *from = x + (input_row * call->width + input_column) * channels;
        const float *to = dy + (row * call->columns + column) * features;
        float *tap = result + (i * call->taps[1] + j) * channels * features;
        for (int64_t f = 0; f < features; f += LANES) {
          int64_t c = 0;
#define SUMS(COUNT)                             \
  for (; c + (COUNT) <= channels; c += (COUNT)) \
  kernel_tile(COUNT, &at, from + c, to + f, tap + c * features + f, features)
          SUMS(LONG);
          SUMS(4);
          SUMS(1);
        }
      }
}

static int64_t kernel_size(const Call *call) { return call->taps[0] * call->taps[1] * call->channels * call->features; }

static void kernel_unit(const Call *call, int64_t n, float *scratch) {
  const int64_t size = kernel_size(call);
  const int64_t input = call->height * call->width * call->channels, output = call->rows * call->columns * call->features;
  const int64_t set = n / call->parts, part = n % call->parts, end = (part + 1) * call->batch / call->parts;
  const int64_t together = most(1, CACHED / (input + output)); /* images */
  float *result = call->partial + n * size;
  memset(result, 0, size * sizeof(float));
  for (int64_t image = part * call->batch / call->parts; image < end; image += together) {
    const int64_t at = set * call->batch + image;
    add_kernel_gradient(call, least(together, end - image), call->x + at * input, call->second + at * output, result);
  }
  (void)scratch;
}

/* ---- Normalisation. A unit is a part of a group's places, in blocks that stay in the nearest cache. */

enum { BLOCK = 16 * 1024 / sizeof(float) };
enum Kind { VALUES, SQUARES, PRODUCTS };

/* Sums of x; of (x - mean)^2; or of dy, and of dy (x - mean). Four of each, for additions that do not wait for one another. */
static inline __attribute__((always_inline)) void sum_block(const enum Kind kind, const float *x, const float *dy, Vector mean,
                                                            int64_t count, int64_t channels, Vector *first, Vector *second) {
  Vector a[4] = {0}, b[4] = {0};
  for (int64_t place = 0; place < count; place += 4)
#pragma GCC unroll 4
    for (int n = 0; n < 4; n++) {
      if (place + n >= count) break;
      const Vector value = *(const Vector *)(x + (place + n) * channels);
      if (kind == VALUES) a[n] += value;
      if (kind == SQUARES) a[n] += (value - mean) * (value - mean);
      if (kind == PRODUCTS) {
        const Vector gradient = *(const Vector *)(dy + (place + n) * channels);
        a[n] += gradient;
        b[n] += gradient * (value - mean);
      }
    }
  *first = (a[0] + a[1]) + (a[2] + a[3]);
  *second = (b[0] + b[1]) + (b[2] + b[3]);
}

static int64_t first_place(const Call *call, int64_t part) { return part * call->places / call->parts; }

/* Mean, and sum of squares about it, of each channel: blocks by two passes, joined as Chan et al. 1983, Eq. 2.1. */
static void moments_unit(const Call *call, int64_t n, float *scratch) {
  const int64_t channels = call->channels, block = most(1, BLOCK / channels), set = n / call->parts, part = n % call->parts;
  const int64_t first = first_place(call, part), places = first_place(call, part + 1) - first;
  const float *x = call->x + (set * call->places + first) * channels;
  float *means = call->partial + n * 2 * channels, *squares = means + channels;
  memset(means, 0, 2 * channels * sizeof(float));
  for (int64_t seen = 0, count; seen < places; seen += count) {
    count = least(block, places - seen);
    const float share = (float)count / (float)(seen + count);
    for (int64_t c = 0; c < channels; c += LANES) {
      const float *from = x + seen * channels + c;
      Vector total, square, unused;
      sum_block(VALUES, from, NULL, (Vector){0}, count, channels, &total, &unused);
      const Vector mean = total / (float)count;
      sum_block(SQUARES, from, NULL, mean, count, channels, &square, &unused);
      const Vector apart = mean - *(Vector *)(means + c);
      *(Vector *)(means + c) += apart * share;
      *(Vector *)(squares + c) += square + apart * apart * (share * (float)seen);
    }
  }
  (void)scratch;
}

/* Mean and variance of a set, of those of its parts. */
static void finish_moments(const Call *call) {
  const int64_t channels = call->channels;
  for (int64_t set = 0; set < call->sets; set++)
    for (int64_t c = 0; c < channels; c += LANES) {
      const float *parts = call->partial + set * call->parts * 2 * channels + c;
      Vector mean = {0}, squares = {0};
      for (int64_t part = 0; part < call->parts; part++) {
        const int64_t count = first_place(call, part + 1) - first_place(call, part);
        mean += *(const Vector *)(parts + part * 2 * channels) * ((float)count / (float)call->places);
      }
      for (int64_t part = 0; part < call->parts; part++) {
        const int64_t count = first_place(call, part + 1) - first_place(call, part);
        const Vector apart = *(const Vector *)(parts + part * 2 * channels) - mean;
        squares += *(const Vector *)(parts + (part * 2 + 1) * channels) + apart * apart * (float)count;
      }
      *(Vector *)(call->result + set * 2 * channels + c) = mean;
      *(Vector *)(call->result + (set * 2 + 1) * channels + c) = squares / (float)call->places;
    }
}

static void sums_unit(const Call *call, int64_t n, float *scratch) {
  const int64_t channels = call->channels, block = most(1, BLOCK / channels), set = n / call->parts, part = n % call->parts;
  const int64_t first = first_place(call, part), places = first_place(call, part + 1) - first;
  const float *x = call->x + (set * call->places + first) * channels, *dy = call->second + (x - call->x);
  float *sums = call->partial + n * 2 * channels, *products = sums + channels;
  memset(sums, 0, 2 * channels * sizeof(float));
  for (int64_t seen = 0, count; seen < places; seen += count) {
    count = least(block, places - seen);
    for (int64_t c = 0; c < channels; c += LANES) {
      const int64_t at = seen * channels + c;
      Vector sum, product;
      const Vector mean = *(const Vector *)(call->third + set * channels + c);
      sum_block(PRODUCTS, x + at, dy + at, mean, count, channels, &sum, &product);
      *(Vector *)(sums + c) += sum;
      *(Vector *)(products + c) += product;
    }
  }
  (void)scratch;
}

/* ---- What all share: units are handed to XLA's threads. */

/* The sums of each set, of those of its parts. */
static void finish_sums(const Call *call) {
  const int64_t size = call->partials / (call->sets * call->parts);
  for (int64_t set = 0; set < call->sets; set++)
    for (int64_t at = 0; at < size; at += LANES) {
      Vector sum = {0};
      for (int64_t part = 0; part < call->parts; part++)
        sum += *(const Vector *)(call->partial + (set * call->parts + part) * size + at);
      *(Vector *)(call->result + set * size + at) = sum;
    }
}

/* One worker. A future tells XLA when the last of them is done, so no thread of its pool waits for another. */
static void work(void *data) {
  Call *call = data;
  float *scratch = call->partial + call->partials + call->scratch * atomic_fetch_add(&call->started, 1);
  for (int64_t n; (n = atomic_fetch_add(&call->next, 1)) < call->units;) call->unit(call, n, scratch);
  if (atomic_fetch_sub(&call->working, 1) > 1) return;
  if (call->finish) call->finish(call);
  const XLA_FFI_Api *api = call->api;
  XLA_FFI_Future_SetAvailable_Args done = {XLA_FFI_Future_SetAvailable_Args_STRUCT_SIZE, NULL, call->future};
  free(call);
  if (done.future) api->XLA_FFI_Future_SetAvailable(&done); /* and this thread goes on with the program */
}

static XLA_FFI_Error *run(XLA_FFI_CallFrame *frame, Call call, int64_t threads) {
  const int64_t workers = most(1, least(threads, call.units));
  Call *shared = malloc(sizeof call + (call.partials + workers * call.scratch) * sizeof(float));
  if (!shared) {
    XLA_FFI_Error_Create_Args full = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, NULL, "no memory for partial sums",
                                      XLA_FFI_Error_Code_RESOURCE_EXHAUSTED};
    return frame->api->XLA_FFI_Error_Create(&full);
  }
  *shared = call;
  shared->partial = (float *)(shared + 1);
  atomic_init(&shared->working, workers);
  if (workers > 1) {
    XLA_FFI_Future_Create_Args future = {XLA_FFI_Future_Create_Args_STRUCT_SIZE, NULL, NULL};
    XLA_FFI_Error *error = frame->api->XLA_FFI_Future_Create(&future);
    if (error) {
      free(shared);
      return error;
    }
    shared->future = frame->future = future.future;
  }
  for (int64_t n = 1; n < workers; n++) {
    XLA_FFI_ThreadPool_Schedule_Args task = {XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, NULL, frame->ctx, work, shared};
    XLA_FFI_Error *error = frame->api->XLA_FFI_ThreadPool_Schedule(&task);
    if (error) { /* then by this thread */
      XLA_FFI_Error_Destroy_Args unused = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, NULL, error};
      frame->api->XLA_FFI_Error_Destroy(&unused);
      work(shared);
    }
  }
  work(shared);
  return NULL;
}

/* Whether XLA asks only which version of its interface this was compiled for; the answer is then given. */
static int is_question(XLA_FFI_CallFrame *frame) {
  if (!frame->extension_start || frame->extension_start->type != XLA_FFI_Extension_Metadata) return 0;
  XLA_FFI_Api_Version *version = &((XLA_FFI_Metadata_Extension *)frame->extension_start)->metadata->api_version;
  version->major_version = XLA_FFI_API_MAJOR;
  version->minor_version = XLA_FFI_API_MINOR;
  return 1;
}

static int64_t pool_size(XLA_FFI_CallFrame *frame) {
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args count = {XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, NULL, frame->ctx, &threads};
  XLA_FFI_Error *error = frame->api->XLA_FFI_ThreadPool_NumThreads(&count);
  if (!error) return threads;
  XLA_FFI_Error_Destroy_Args unused = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, NULL, error};
  frame->api->XLA_FFI_Error_Destroy(&unused);
  return 1; /* XLA without a pool */
}

/* `outputs` and `taps`: dimensions [rows, columns, features] and [h, w] among those of the buffers. */
static Call described(XLA_FFI_CallFrame *frame, const int64_t *outputs, const int64_t *taps) {
  const XLA_FFI_Buffer *x = frame->args.args[0], *second = frame->args.args[1], *result = frame->rets.rets[0];
  const int64_t *options = ((const XLA_FFI_Array *)frame->attrs.attrs[0])->data, *images = x->dims + x->rank - 4;
  Call call = {.x = x->data, .second = second->data, .result = result->data, .sets = 1, .batch = images[0],
               .height = images[1], .width = images[2], .channels = images[3], .rows = outputs[0], .columns = outputs[1],
               .features = outputs[2], .taps = {taps[0], taps[1]}, .stride = {options[0], options[1]},
               .padding = {options[2], options[3]}, .dilation = {options[4], options[5]}, .api = frame->api};
  for (int64_t axis = 0; axis < x->rank - 4; axis++) call.sets *= x->dims[axis];
  return call;
}

/* x [..., B, H, W, C] and a kernel [..., h, w, C, F] to outputs [..., B, H', W', F], each set with a kernel of its own
   (jax.vmap). The attribute is int64[6]: stride, padding before, and dilation, each of rows and columns. */
XLA_FFI_Error *resflax_convolution(XLA_FFI_CallFrame *frame) {
  if (is_question(frame)) return NULL;
  const XLA_FFI_Buffer *kernel = frame->args.args[1], *result = frame->rets.rets[0];
  Call call = described(frame, result->dims + result->rank - 3, kernel->dims + kernel->rank - 4);
  const int64_t threads = pool_size(frame), images = call.sets * call.batch;
  const int64_t even = (images * call.rows + 4 * threads - 1) / (4 * threads); /* rows, for at least four units a thread */
  call.block = least(call.rows, least(even, most(1, CACHED / (call.stride[0] * call.width * call.channels))));
  call.blocks = (call.rows + call.block - 1) / call.block;
  call.units = images * call.blocks;
  call.unit = outputs_unit;
  call.scratch = reach(&call, 0, call.block) * reach(&call, 1, call.columns) * call.channels;
  return run(frame, call, threads);
}

/* x [..., B, H, W, C] and dy [..., B, H', W', F] to gradients of the kernel [..., h, w, C, F]; the attribute as above. */
XLA_FFI_Error *resflax_kernel_gradient(XLA_FFI_CallFrame *frame) {
  if (is_question(frame)) return NULL;
  const XLA_FFI_Buffer *dy = frame->args.args[1], *result = frame->rets.rets[0];
  Call call = described(frame, dy->dims + dy->rank - 3, result->dims + result->rank - 4);
  call.parts = least(PARTS, call.batch);
  call.block = most(1, CACHED / (call.stride[0] * call.width * call.channels + call.columns * call.features));
  call.units = call.sets * call.parts;
  call.unit = kernel_unit;
  call.finish = finish_sums;
  call.partials = call.units * kernel_size(&call);
  return run(frame, call, pool_size(frame));
}

/* `unit` sums over the places of x [..., M, C], two vectors of C for each of its parts. */
static Call over_places(XLA_FFI_CallFrame *frame, void (*unit)(const Call *, int64_t, float *), void (*finish)(const Call *)) {
  const XLA_FFI_Buffer *x = frame->args.args[0], *result = frame->rets.rets[0];
  Call call = {.x = x->data, .result = result->data, .unit = unit, .finish = finish, .sets = 1, .places = x->dims[x->rank - 2],
               .channels = x->dims[x->rank - 1], .api = frame->api};
  for (int64_t axis = 0; axis < x->rank - 2; axis++) call.sets *= x->dims[axis];
  call.parts = least(PARTS, call.places);
  call.units = call.sets * call.parts;
  call.partials = call.units * 2 * call.channels;
  return call;
}

/* x [..., M, C] to the mean and the biased variance of its M places, [..., 2, C]. */
XLA_FFI_Error *resflax_moments(XLA_FFI_CallFrame *frame) {
  if (is_question(frame)) return NULL;
  return run(frame, over_places(frame, moments_unit, finish_moments), pool_size(frame));
}

/* x and dy [..., M, C] and a mean [..., C] to the sums of dy and of dy (x - mean), [..., 2, C]. */
XLA_FFI_Error *resflax_sums(XLA_FFI_CallFrame *frame) {
  if (is_question(frame)) return NULL;
  Call call = over_places(frame, sums_unit, finish_sums);
  call.second = ((const XLA_FFI_Buffer *)frame->args.args[1])->data;
  call.third = ((const XLA_FFI_Buffer *)frame->args.args[2])->data;
  return run(frame, call, pool_size(frame));
}
