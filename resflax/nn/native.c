/* Convolutions, the gradients of their kernels, and sums for normalisation, for XLA:CPU in float32, channels last; and the
   words of random numbers.

   Eigen, which XLA:CPU has for convolutions, copies the window of every output before it multiplies, and for a kernel's
   gradient wants both arguments transposed. Here a tile of results stays in vector registers, and products of one number of an
   image with a vector of features are added to it, read where they lie: an 8 by 2 tile of vectors is 16 independent sums,
   enough to hide how long an addition takes. Where taps are 3x3 and the stride is 1, there are fewer products. Sums for
   normalisation read their arguments once, where XLA:CPU first writes what is to be summed.

   XLA calls the functions at the end, through its FFI (xla/ffi/api/c_api.h); resflax/nn/native.py compiles and calls them.
   The last dimension of what is convolved or summed is a multiple of 16. */

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
  void (*begin)(const Call *call);                           /* before all units; may be NULL */
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

static int64_t kernel_size(const Call *call) { return call->taps[0] * call->taps[1] * call->channels * call->features; }

/* How many inputs the taps reach from the first of `outputs` to the last. */
static int64_t reach(const Call *call, int axis, int64_t outputs) {
  return (outputs - 1) * call->stride[axis] + (call->taps[axis] - 1) * call->dilation[axis] + 1;
}

/* ---- Convolution. A unit is a block of rows of one image, copied with its padding so that no tap asks for the edge. */

/* Outputs that are `step` apart in x, each the sum over `taps` of a product of channels with channels x features. */
typedef struct {
  int64_t taps[2], row, column, step, channels, features; /* `row` and `column`: how far apart taps lie in x */
} Window;

static inline __attribute__((always_inline)) void outputs_tile(const int count, const int vectors, const Window *window,
                                                               const float *x, const float *kernel, float *y) {
  const int64_t channels = window->channels, features = window->features, step = window->step;
  Vector sums[LONG][2] = {0};
  for (int64_t i = 0; i < window->taps[0]; i++)
    for (int64_t j = 0; j < window->taps[1]; j++) {
      const float *from = x + i * window->row + j * window->column;
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

static void outputs_row(const Window *window, int64_t count, const float *x, const float *kernel, float *y) {
  const int64_t features = window->features;
  int64_t f = 0, o;
#define TILES(COUNT, VECTORS)                \
  for (; o + (COUNT) <= count; o += (COUNT)) \
  outputs_tile(COUNT, VECTORS, window, x + o * window->step, kernel + f, y + o * features + f)
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
  const float *kernel = call->second + image / call->batch * kernel_size(call);
  const Window window = {{call->taps[0], call->taps[1]}, call->dilation[0] * width * channels, call->dilation[1] * channels,
                         call->stride[1] * channels, channels, features};
  copy_padded(call, call->x + image * call->height * call->width * channels, top, reach(call, 0, rows), width, padded);
  for (int64_t row = 0; row < rows; row++)
    outputs_row(&window, columns, padded + row * call->stride[0] * width * channels, kernel,
                call->result + ((image * call->rows + first + row) * columns) * features);
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

static void add_products(const Places *at, int64_t channels, int64_t features, const float *x, const float *dy, float *result) {
  for (int64_t f = 0; f < features; f += LANES) {
    int64_t c = 0;
#define SUMS(COUNT)                             \
  for (; c + (COUNT) <= channels; c += (COUNT)) \
  kernel_tile(COUNT, at, x + c, dy + f, result + c * features + f, features)
    SUMS(LONG);
    SUMS(4);
    SUMS(1);
  }
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
        add_products(&at, channels, features, from, to, result + (i * call->taps[1] + j) * channels * features);
      }
}

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

/* ---- Both for 3x3 taps at stride 1, by minimal filtering: F(2x2, 3x3) of Lavin and Gray 2015 (arXiv:1509.09308), Sec. 4.1.

   A tile is 2x2 outputs and the 4x4 inputs that they see. It takes 16 products of each channel with each feature, not 36: with

           1  0 -1  0         1    0    0
     B^T = 0  1  1  0    G = 1/2  1/2  1/2    A^T = 1  1  1  0
           0 -1  1  0        1/2 -1/2  1/2          0  1 -1 -1
           0  1  0 -1         0    0    1

   its outputs are A^T [(G kernel G^T) * (B^T inputs B)] A, and the gradient of the kernel, in which they are linear, is the sum
   of G^T [(A dy A^T) * (B^T inputs B)] G over all tiles. At each of the 16 positions the products are those of a matrix. */

enum { POSITIONS = 16 };

#define ALONG static inline __attribute__((always_inline)) void
#define EACH(INDEX, COUNT) _Pragma("GCC unroll 4") for (int INDEX = 0; INDEX < (COUNT); INDEX++)

ALONG inputs_along(Vector a, Vector b, Vector c, Vector d, Vector *to) {
  to[0] = a - c, to[1] = b + c, to[2] = c - b, to[3] = b - d;
}
ALONG outputs_along(Vector a, Vector b, Vector c, Vector d, Vector *to) { to[0] = a + b + c, to[1] = b - c - d; }
ALONG gradients_along(Vector a, Vector b, Vector *to) { to[0] = a, to[1] = a + b, to[2] = a - b, to[3] = -b; }
ALONG kernel_along(Vector a, Vector b, Vector c, Vector *to) {
  to[0] = a, to[1] = (a + c + b) * 0.5f, to[2] = (a + c - b) * 0.5f, to[3] = c;
}
ALONG kernel_gradient_along(Vector a, Vector b, Vector c, Vector d, Vector *to) {
  to[0] = a + (b + c) * 0.5f, to[1] = (b - c) * 0.5f, to[2] = (b + c) * 0.5f + d;
}

static inline Vector load(const float *from) { return *(const Vector *)from; }

/* B^T inputs B; `row`, `channels` and `position` say how far apart rows, columns and positions lie, here and below. */
static void transform_inputs(int64_t channels, const float *x, int64_t row, float *to, int64_t position) {
  for (int64_t at = 0; at < channels; at += LANES, x += LANES, to += LANES) {
    Vector half[4][4], values[4];
    EACH(j, 4) {
      const float *from = x + j * channels;
      inputs_along(load(from), load(from + row), load(from + 2 * row), load(from + 3 * row), half[j]);
    }
    EACH(i, 4) {
      inputs_along(half[0][i], half[1][i], half[2][i], half[3][i], values);
      EACH(j, 4) *(Vector *)(to + (4 * i + j) * position) = values[j];
    }
  }
}

/* A^T products A, of which `rows` and `columns` are outputs. */
static void transform_products(int64_t features, const float *products, int64_t position, float *y, int64_t row, int64_t rows,
                               int64_t columns) {
  for (int64_t at = 0; at < features; at += LANES, products += LANES, y += LANES) {
    Vector half[4][2], values[2];
    EACH(j, 4) {
      const float *from = products + j * position;
      outputs_along(load(from), load(from + 4 * position), load(from + 8 * position), load(from + 12 * position), half[j]);
    }
    EACH(i, 2) {
      if (i >= rows) break;
      outputs_along(half[0][i], half[1][i], half[2][i], half[3][i], values);
      EACH(j, 2) if (j < columns) *(Vector *)(y + i * row + j * features) = values[j];
    }
  }
}

/* A dy A^T; of `rows` and `columns` there are gradients, and others are 0. */
static void transform_gradients(int64_t features, const float *dy, int64_t row, int64_t rows, int64_t columns, float *to,
                                int64_t position) {
  for (int64_t at = 0; at < features; at += LANES, dy += LANES, to += LANES) {
    Vector half[2][4], values[4];
    EACH(j, 2) {
      const float *from = dy + j * features;
      const Vector none = {0}, first = j < columns ? load(from) : none;
      gradients_along(first, j < columns && rows > 1 ? load(from + row) : none, half[j]);
    }
    EACH(i, 4) {
      gradients_along(half[0][i], half[1][i], values);
      EACH(j, 4) *(Vector *)(to + (4 * i + j) * position) = values[j];
    }
  }
}

/* G kernel G^T, of `size` channels times features. */
static void transform_kernel(int64_t size, const float *kernel, float *to) {
  for (int64_t at = 0; at < size; at += LANES, kernel += LANES, to += LANES) {
    Vector half[3][4], values[4];
    EACH(j, 3) kernel_along(load(kernel + j * size), load(kernel + (3 + j) * size), load(kernel + (6 + j) * size), half[j]);
    EACH(i, 4) {
      kernel_along(half[0][i], half[1][i], half[2][i], values);
      EACH(j, 4) *(Vector *)(to + (4 * i + j) * size) = values[j];
    }
  }
}

/* G^T sums G. */
static void transform_sums(int64_t size, const float *sums, float *kernel) {
  for (int64_t at = 0; at < size; at += LANES, sums += LANES, kernel += LANES) {
    Vector half[4][3], values[3];
    EACH(j, 4) {
      const float *from = sums + j * size;
      kernel_gradient_along(load(from), load(from + 4 * size), load(from + 8 * size), load(from + 12 * size), half[j]);
    }
    EACH(i, 3) {
      kernel_gradient_along(half[0][i], half[1][i], half[2][i], half[3][i], values);
      EACH(j, 3) *(Vector *)(kernel + (3 * i + j) * size) = values[j];
    }
  }
}

/* The first output of a tile. Those of a set lie one after another. */
typedef struct {
  int64_t image, row, column;
} Tile;

static int64_t tiles_of_image(const Call *call) { return (call->rows + 1) / 2 * ((call->columns + 1) / 2); }

static Tile tile_at(const Call *call, int64_t set, int64_t n) {
  const int64_t across = (call->columns + 1) / 2, place = n % tiles_of_image(call);
  return (Tile){set * call->batch + n / tiles_of_image(call), place / across * 2, place % across * 2};
}

static Tile next_tile(const Call *call, Tile tile) {
  tile.column += 2;
  if (tile.column >= call->columns) tile.column = 0, tile.row += 2;
  if (tile.row >= call->rows) tile.row = 0, tile.image++;
  return tile;
}

/* Where the outputs of a tile, or their gradients, begin. */
static int64_t output_of(const Call *call, Tile tile) {
  return ((tile.image * call->rows + tile.row) * call->columns + tile.column) * call->features;
}

/* Transforms the inputs of a tile, by a copy where some of them are padding. */
static void transform_tile(const Call *call, Tile tile, float *copy, float *to, int64_t position) {
  const int64_t channels = call->channels, width = call->width, height = call->height;
  const int64_t top = tile.row - call->padding[0], left = tile.column - call->padding[1];
  const float *image = call->x + tile.image * height * width * channels;
  if (top >= 0 && left >= 0 && top + 4 <= height && left + 4 <= width) {
    const float *x = image + (top * width + left) * channels;
    if (top + 6 <= height) /* what the tile below sees and this one does not */
      for (int64_t c = 2 * channels; c < 4 * channels; c += 16) {
        __builtin_prefetch(x + 4 * width * channels + c);
        __builtin_prefetch(x + 5 * width * channels + c);
      }
    transform_inputs(channels, x, width * channels, to, position);
    return;
  }
  for (int64_t row = top, at = 0; row < top + 4; row++)
    for (int64_t column = left; column < left + 4; column++, at += channels)
      if (row >= 0 && column >= 0 && row < height && column < width)
        memcpy(copy + at, image + (row * width + column) * channels, channels * sizeof(float));
      else
        memset(copy + at, 0, channels * sizeof(float));
  transform_inputs(channels, copy, 4 * channels, to, position);
}

/* How far apart positions of a block of tiles lie: not a power of two, which would share a few places of the cache. */
static int64_t apart(const Call *call, int64_t channels) { return call->block * channels + LANES; }

/* A block of tiles of a set. */
static void filter_unit(const Call *call, int64_t n, float *scratch) {
  const int64_t channels = call->channels, features = call->features, set = n / call->blocks;
  const int64_t first = n % call->blocks * call->block, row = call->columns * features;
  const int64_t count = least(call->block, call->batch * tiles_of_image(call) - first);
  const int64_t of_inputs = apart(call, channels), of_products = apart(call, features);
  float *inputs = scratch, *products = inputs + POSITIONS * of_inputs, *copy = products + POSITIONS * of_products;
  const float *kernel = call->partial + set * POSITIONS * channels * features;
  const Window window = {{1, 1}, 0, 0, channels, channels, features};
  Tile tile = tile_at(call, set, first);
  for (int64_t t = 0; t < count; t++, tile = next_tile(call, tile)) {
    transform_tile(call, tile, copy, inputs + t * channels, of_inputs);
    const float *y = call->result + output_of(call, tile);
    if (tile.row + 1 < call->rows && tile.column + 1 < call->columns) /* ready to be written when the products are */
      for (int64_t f = 0; f < 2 * features; f += 16) __builtin_prefetch(y + f, 1), __builtin_prefetch(y + row + f, 1);
  }
  for (int64_t p = 0; p < POSITIONS; p++)
    outputs_row(&window, count, inputs + p * of_inputs, kernel + p * channels * features, products + p * of_products);
  tile = tile_at(call, set, first);
  for (int64_t t = 0; t < count; t++, tile = next_tile(call, tile))
    transform_products(features, products + t * features, of_products, call->result + output_of(call, tile), row,
                       least(2, call->rows - tile.row), least(2, call->columns - tile.column));
}

/* The tiles of a part of a batch. */
static void filter_gradient_unit(const Call *call, int64_t n, float *scratch) {
  const int64_t channels = call->channels, features = call->features, size = channels * features;
  const int64_t set = n / call->parts, part = n % call->parts, begin = part * call->batch / call->parts;
  const int64_t end = ((part + 1) * call->batch / call->parts - begin) * tiles_of_image(call), row = call->columns * features;
  const int64_t of_inputs = apart(call, channels), of_gradients = apart(call, features);
  float *inputs = scratch, *gradients = inputs + POSITIONS * of_inputs, *copy = gradients + POSITIONS * of_gradients;
  float *sums = copy + POSITIONS * channels;
  memset(sums, 0, POSITIONS * size * sizeof(float));
  Tile tile = {set * call->batch + begin, 0, 0};
  for (int64_t done = 0, count; done < end; done += count) {
    count = least(call->block, end - done);
    for (int64_t t = 0; t < count; t++, tile = next_tile(call, tile)) {
      transform_tile(call, tile, copy, inputs + t * channels, of_inputs);
      transform_gradients(features, call->second + output_of(call, tile), row, least(2, call->rows - tile.row),
                          least(2, call->columns - tile.column), gradients + t * features, of_gradients);
    }
    const Places at = {.images = 1, .rows = 1, .columns = count, .x_column = channels, .dy_column = features};
    for (int64_t p = 0; p < POSITIONS; p++)
      add_products(&at, channels, features, inputs + p * of_inputs, gradients + p * of_gradients, sums + p * size);
  }
  transform_sums(size, sums, call->partial + n * kernel_size(call));
}

static void transform_kernels(const Call *call) {
  const int64_t size = call->channels * call->features;
  for (int64_t set = 0; set < call->sets; set++)
    transform_kernel(size, call->second + set * 9 * size, call->partial + set * POSITIONS * size);
}

/* As `is_filtered` of native.py. Of a single row or column most taps see nothing, and their gradients are to be 0. */
static int can_be_filtered(const Call *call) {
  const int64_t *taps = call->taps, *stride = call->stride, *dilation = call->dilation;
  int are_plain = 1;
  for (int axis = 0; axis < 2; axis++) are_plain &= taps[axis] == 3 && stride[axis] == 1 && dilation[axis] == 1;
  return are_plain && call->channels % 16 == 0 && call->height > 1 && call->width > 1;
}

/* Blocks of so many tiles that a core's cache holds them, and not so few that kernels are read for little. Scratch: inputs and
   products, or gradients, of a block, and a copy of one tile. */
static void filter(Call *call, void (*unit)(const Call *, int64_t, float *)) {
  call->block = most(64, 2 * CACHED / (POSITIONS * (call->channels + call->features)));
  call->blocks = (call->batch * tiles_of_image(call) + call->block - 1) / call->block;
  call->scratch = POSITIONS * (apart(call, call->channels) + apart(call, call->features) + call->channels);
  call->unit = unit;
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

static int64_t whole_lines(int64_t count) { return (count + 15) / 16 * 16; }

static XLA_FFI_Error *run(XLA_FFI_CallFrame *frame, Call call, int64_t threads) {
  const int64_t workers = most(1, least(threads, call.units));
  call.partials = whole_lines(call.partials), call.scratch = whole_lines(call.scratch);
  const int64_t head = whole_lines((sizeof call + 3) / 4);
  Call *shared = aligned_alloc(64, (head + call.partials + workers * call.scratch) * sizeof(float));
  if (!shared) {
    XLA_FFI_Error_Create_Args full = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, NULL, "no memory for partial sums",
                                      XLA_FFI_Error_Code_RESOURCE_EXHAUSTED};
    return frame->api->XLA_FFI_Error_Create(&full);
  }
  *shared = call;
  shared->partial = (float *)shared + head;
  atomic_init(&shared->working, workers);
  if (shared->begin) shared->begin(shared);
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
  if (can_be_filtered(&call)) {
    filter(&call, filter_unit);
    call.units = call.sets * call.blocks;
    call.begin = transform_kernels;
    call.partials = call.sets * POSITIONS * call.channels * call.features;
    return run(frame, call, threads);
  }
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
  call.units = call.sets * call.parts;
  call.partials = call.units * kernel_size(&call);
  call.finish = finish_sums;
  if (can_be_filtered(&call) && call.channels * call.features > 16 * 16) { /* as many do not pay for two transforms */
    filter(&call, filter_gradient_unit);
    call.scratch += POSITIONS * call.channels * call.features;
  } else {
    call.block = most(1, CACHED / (call.stride[0] * call.width * call.channels + call.columns * call.features));
    call.unit = kernel_unit;
  }
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

typedef uint32_t Words __attribute__((vector_size(LANES * sizeof(uint32_t)), aligned(sizeof(uint32_t)), may_alias));

/* A key and counts to random words, by Threefry 2x32 in 20 rounds (Salmon et al. 2011, Parallel random numbers). */
static void threefry(const uint32_t *key, Words high, Words low, Words words[2]) {
  static const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA};
  high += keys[0], low += keys[1];
  for (uint32_t five = 1; five <= 5; five++) {
    for (int round = 0; round < 4; round++) {
      int by = rotations[(five - 1) % 2][round];
      high += low;
      low = (low << by | low >> (32 - by)) ^ high;
    }
    high += keys[five % 3], low += keys[(five + 1) % 3] + five;
  }
  words[0] = high, words[1] = low;
}

/* Keys uint32[..., 2] and first counts uint32[...] to the two words of each of N counts, uint32[..., 2, N]. */
XLA_FFI_Error *resflax_threefry(XLA_FFI_CallFrame *frame) {
  if (is_question(frame)) return NULL;
  const XLA_FFI_Buffer *keys = frame->args.args[0], *result = frame->rets.rets[0];
  const uint32_t *key = keys->data, *first = ((const XLA_FFI_Buffer *)frame->args.args[1])->data;
  int64_t count = result->dims[result->rank - 1], sets = 1;
  for (int64_t axis = 0; axis + 2 < result->rank; axis++) sets *= result->dims[axis];
  Words lanes;
  for (int lane = 0; lane < LANES; lane++) lanes[lane] = lane;
  uint32_t *to = result->data;
  for (int64_t set = 0; set < sets; set++, key += 2, first++, to += 2 * count)
    for (int64_t n = 0; n < count; n += LANES) {
      Words words[2];
      uint64_t least_count = *first + (uint64_t)n;
      Words low = lanes + (uint32_t)least_count, carry = (Words)(low < (uint32_t)least_count); /* -1 where there is one */
      threefry(key, (uint32_t)(least_count >> 32) - carry, low, words);
      for (int half = 0; half < 2; half++) memcpy(to + half * count + n, &words[half], least(count - n, LANES) * sizeof *to);
    }
  return NULL;
}
