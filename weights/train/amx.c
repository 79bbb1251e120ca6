/* A block of TF-MLPNet, forwards and backwards, for CPUs with AMX: what model.py states, in BF16 products with FP32 sums.
 *
 * PyTorch makes every step of a block a pass over memory; here a frame goes through a whole stage while it is in the cache.
 * Frames are [bins][32] with channels last, bins padded to a multiple of 32 (rows beyond the network's own hold anything, and
 * no matrix along frequency hears them).
 *
 * Operands of a product C += A B, for tiles of 16 rows of 64 bytes:
 *   rows    A as it is, [m][k] in BF16
 *   pairs   B as [k / 2][n][2]: rows two by two, interleaved
 * Seen as 32-bit words, the pairs of a matrix transposed are the rows of its transpose, and its rows transposed are the pairs
 * of its transpose; so one routine for 32-bit words makes whatever operand a gradient needs.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef uint16_t bf16;

enum { C = 32, H = 32, GATES = 4 * H, GROUP = 8, TILE = 16, STRIP = 32 };

/* ---- tiles ---- */

static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) CONFIG = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

/* Asks the kernel for the tile registers; 0 where this process may use them. */
int amx_request(void) { return syscall(SYS_arch_prctl, 0x1023, 18) != 0; }

/* C [m][n] (+)= sum over k tiles of A (rows, lda apart) and B (pairs, ldb apart); consecutive k tiles lie ak and bk apart. */
static inline __attribute__((always_inline)) void product(const bf16 *a, long lda, long ak, const bf16 *b, long ldb, long bk,
                                                          float *c, long ldc, int m, int n, int k, int add) {
    for (int j = 0; j < n; j += 2 * TILE)
        for (int i = 0; i < m; i += 2 * TILE) {
            float *corner = c + i * ldc + j;
            if (add) {
                _tile_loadd(0, corner, 4 * ldc);
                _tile_loadd(1, corner + TILE, 4 * ldc);
                _tile_loadd(2, corner + TILE * ldc, 4 * ldc);
                _tile_loadd(3, corner + TILE * ldc + TILE, 4 * ldc);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            const bf16 *p = a + i * lda, *q = b + 2 * j;
            for (int step = 0; step < k; step++, p += ak, q += bk) {
                _tile_loadd(4, p, 2 * lda);
                _tile_loadd(6, q, 2 * ldb);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, q + 2 * TILE, 2 * ldb);
                _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(5, p + TILE * lda, 2 * lda);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, corner, 4 * ldc);
            _tile_stored(1, corner + TILE, 4 * ldc);
            _tile_stored(2, corner + TILE * ldc, 4 * ldc);
            _tile_stored(3, corner + TILE * ldc + TILE, 4 * ldc);
        }
}

/* C [m][n] (+)= A [m][k] B [k][n], A in rows without gaps, B in pairs without gaps. */
static inline __attribute__((always_inline)) void multiply(const bf16 *a, const bf16 *b, float *c, int m, int n, int k, int add) {
    product(a, k, 2 * TILE, b, 2 * n, TILE * 2 * n, c, n, m, n, k / (2 * TILE), add);
}

/* ---- operands ---- */

static inline __m512i narrow(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

static inline void interleave(__m512i even, __m512i odd, bf16 *to) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36,
                                         4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, low, odd));
    _mm512_storeu_si512(to + 32, _mm512_permutex2var_epi16(even, high, odd));
}

static inline void transpose16(const uint32_t *from, long lds, uint32_t *to, long ldd) {
    __m512i r[16], s[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(from + i * lds);
    for (int i = 0; i < 8; i++) {
        s[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        s[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(s[4 * i], s[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(s[4 * i], s[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(s[4 * i + 1], s[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(s[4 * i + 1], s[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        s[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        s[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        s[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        s[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_si512(to + i * ldd, _mm512_shuffle_i32x4(s[i], s[8 + i], 0x88));
        _mm512_storeu_si512(to + (8 + i) * ldd, _mm512_shuffle_i32x4(s[i], s[8 + i], 0xdd));
        _mm512_storeu_si512(to + (4 + i) * ldd, _mm512_shuffle_i32x4(s[4 + i], s[12 + i], 0x88));
        _mm512_storeu_si512(to + (12 + i) * ldd, _mm512_shuffle_i32x4(s[4 + i], s[12 + i], 0xdd));
    }
}

/* 32-bit words [rows][columns] to [columns][rows], ldd words apart. */
static inline void transposed(const void *from, int rows, int columns, void *to, long ldd) {
    for (int i = 0; i < rows; i += 16)
        for (int j = 0; j < columns; j += 16)
            transpose16((const uint32_t *)from + (long)i * columns + j, columns, (uint32_t *)to + (long)j * ldd + i, ldd);
}

/* Two rows of [..][C] of floats as an operand's rows and, interleaved, as its pairs. */
static inline void both(__m512 e0, __m512 e1, __m512 o0, __m512 o1, bf16 *rows, bf16 *pairs) {
    __m512i even = narrow(e0, e1), odd = narrow(o0, o1);
    if (rows) {
        _mm512_storeu_si512(rows, even);
        _mm512_storeu_si512(rows + C, odd);
    }
    if (pairs) interleave(even, odd, pairs);
}

static inline __attribute__((always_inline)) void operand(const float *x, int n, bf16 *rows, bf16 *pairs) {
    for (int i = 0; i < n; i += 2, x += 2 * C)
        both(_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16), _mm512_loadu_ps(x + 32), _mm512_loadu_ps(x + 48),
             rows ? rows + i * C : 0, pairs ? pairs + i * C : 0);
}

static inline void pairs_of(const bf16 *rows, int n, bf16 *pairs) {
    for (int i = 0; i < n; i += 2, rows += 2 * C, pairs += 2 * C)
        interleave(_mm512_loadu_si512(rows), _mm512_loadu_si512(rows + C), pairs);
}

static inline void column_sums(const float *x, int n, float *sums) {
    __m512 low = _mm512_loadu_ps(sums), high = _mm512_loadu_ps(sums + 16);
    for (int i = 0; i < n; i++) {
        low = _mm512_add_ps(low, _mm512_loadu_ps(x + i * C));
        high = _mm512_add_ps(high, _mm512_loadu_ps(x + i * C + 16));
    }
    _mm512_storeu_ps(sums, low);
    _mm512_storeu_ps(sums + 16, high);
}

/* x [n][C] += down (one a row) and across (one a column), either may be absent. */
static inline __attribute__((always_inline)) void add_bias(float *x, int n, const float *down, const float *across) {
    __m512 low = across ? _mm512_loadu_ps(across) : _mm512_setzero_ps();
    __m512 high = across ? _mm512_loadu_ps(across + 16) : _mm512_setzero_ps();
    for (int i = 0; i < n; i++, x += C) {
        __m512 own = down ? _mm512_set1_ps(down[i]) : _mm512_setzero_ps();
        _mm512_storeu_ps(x, _mm512_add_ps(_mm512_loadu_ps(x), _mm512_add_ps(own, low)));
        _mm512_storeu_ps(x + 16, _mm512_add_ps(_mm512_loadu_ps(x + 16), _mm512_add_ps(own, high)));
    }
}

/* relu(x + bias) of [n][C] as operand. */
static inline __attribute__((always_inline)) void rectified(const float *x, int n, const float *down, const float *across,
                                                            bf16 *rows, bf16 *pairs) {
    const __m512 zero = _mm512_setzero_ps();
    __m512 low = across ? _mm512_loadu_ps(across) : zero, high = across ? _mm512_loadu_ps(across + 16) : zero;
    for (int i = 0; i < n; i += 2, x += 2 * C) {
        __m512 a = down ? _mm512_set1_ps(down[i]) : zero, b = down ? _mm512_set1_ps(down[i + 1]) : zero;
        both(_mm512_max_ps(zero, _mm512_add_ps(_mm512_loadu_ps(x), _mm512_add_ps(a, low))),
             _mm512_max_ps(zero, _mm512_add_ps(_mm512_loadu_ps(x + 16), _mm512_add_ps(a, high))),
             _mm512_max_ps(zero, _mm512_add_ps(_mm512_loadu_ps(x + 32), _mm512_add_ps(b, low))),
             _mm512_max_ps(zero, _mm512_add_ps(_mm512_loadu_ps(x + 48), _mm512_add_ps(b, high))), rows ? rows + i * C : 0,
             pairs ? pairs + i * C : 0);
    }
}

/* x [n][C] to the nearest values of a grid: its step, its least and its largest multiple of that; of step 0, as it is. */
static inline void stored(float *x, int n, const float *grid) {
    if (grid[0] == 0) return;
    const __m512 step = _mm512_set1_ps(grid[0]), low = _mm512_set1_ps(grid[1]), high = _mm512_set1_ps(grid[2]);
    for (int i = 0; i < n * C; i += 16) {
        __m512 whole = _mm512_roundscale_ps(_mm512_div_ps(_mm512_loadu_ps(x + i), step),
                                            _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm512_storeu_ps(x + i, _mm512_mul_ps(_mm512_max_ps(_mm512_min_ps(whole, high), low), step));
    }
}

/* x [n][C] where the rectified values in `rows` are above zero, else 0. */
static inline void masked(float *x, int n, const bf16 *rows) {
    for (int i = 0; i < n; i++, x += C, rows += C) {
        __mmask32 live = _mm512_test_epi16_mask(_mm512_loadu_si512(rows), _mm512_loadu_si512(rows));
        _mm512_storeu_ps(x, _mm512_maskz_loadu_ps((__mmask16)live, x));
        _mm512_storeu_ps(x + 16, _mm512_maskz_loadu_ps((__mmask16)(live >> 16), x + 16));
    }
}

/* sums [n][16] += the two halves of every row of x [n][C]. */
static inline void row_sums(const float *x, int n, float *sums) {
    for (int i = 0; i < n; i++, x += C, sums += 16)
        _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums),
                                             _mm512_add_ps(_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16))));
}

static bf16 rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

/* Memory of one call, handed out in pieces of whole cache lines, zeroed. */
typedef struct {
    char *next, *base, *end;
} arena;

static void *take(arena *from, long bytes) {
    void *found = from->next;
    from->next += (bytes + 127) / 64 * 64;
    if (from->next > from->end) abort(); /* a stage asked for less than it takes */
    return found;
}

static int opened(arena *it, long bytes) {
    bytes = (bytes + 63) / 64 * 64;
    it->base = it->next = aligned_alloc(64, bytes);
    it->end = it->base + bytes;
    if (it->base) memset(it->base, 0, bytes);
    return it->base != 0;
}

/* The weights [m][n] as rows of [mp][np], zeros beyond. */
static bf16 *rows_of_weights(arena *at, const float *w, int m, int n, int mp, int np) {
    bf16 *to = take(at, 2L * mp * np);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) to[(long)i * np + j] = rounded(w[i * n + j]);
    return to;
}

static bf16 *turned_rows(arena *at, const float *w, int m, int n, int mp, int np) {
    bf16 *to = take(at, 2L * mp * np);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) to[(long)j * mp + i] = rounded(w[i * n + j]);
    return to;
}

/* Pairs of the weights [m][n] as they are (k counts outputs, for gradients). */
static bf16 *pairs_of_weights(arena *at, const float *w, int m, int n) {
    bf16 *to = take(at, 2L * m * n);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) to[(long)(i / 2) * 2 * n + 2 * j + i % 2] = rounded(w[i * n + j]);
    return to;
}

/* Pairs of the transpose of the weights [m][n] (k counts inputs). */
static bf16 *turned_pairs(arena *at, const float *w, int m, int n) {
    bf16 *to = take(at, 2L * m * n);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) to[(long)(j / 2) * 2 * m + 2 * i + j % 2] = rounded(w[i * n + j]);
    return to;
}

static float *padded(arena *at, const float *x, int n, int np) {
    float *to = take(at, 4L * np);
    memcpy(to, x, 4L * n);
    return to;
}

/* ---- the spectral stage: s = x + intra(mixers(x)) ---- */

/* Parameters and gradients of a mixer, in this order: freq1, freq2, chan1, chan2, each weight and bias; then intra_linear's. */
typedef struct {
    bf16 *w1, *w2, *v1, *v2;     /* forwards */
    bf16 *w1t, *w2t, *v1t, *v2t; /* backwards */
    float *b1, *b2, *a1, *a2;
    const float *grids; /* of the two sums, see `stored` */
} mixer;

typedef struct {
    bf16 *xt, *hb, *yv, *gv, *gb;   /* of the forward pass: x's transpose in pairs, h in rows, y and g in pairs, g in rows */
    bf16 *dyt, *dhb, *dzt, *dgt;    /* gradients: y's transpose in pairs, h in rows, z's and g's transposes in rows */
    float *dw1, *dw2t, *dv1, *dv2;  /* sums */
    float *db1, *db2, *da1, *da2;
} trace;

static mixer packed(arena *at, const float *const *p, const float *grids, int f, int u, int fp, int up, int backwards) {
    mixer it = {.grids = grids};
    it.w1 = rows_of_weights(at, p[0], u, f, up, fp);
    it.w2 = rows_of_weights(at, p[2], f, u, fp, up);
    it.v1 = turned_pairs(at, p[4], C, C);
    it.v2 = turned_pairs(at, p[6], C, C);
    if (backwards) {
        it.w1t = turned_rows(at, p[0], u, f, up, fp);
        it.w2t = turned_rows(at, p[2], f, u, fp, up);
        it.v1t = pairs_of_weights(at, p[4], C, C);
        it.v2t = pairs_of_weights(at, p[6], C, C);
    }
    it.b1 = padded(at, p[1], u, up);
    it.b2 = padded(at, p[3], f, fp);
    it.a1 = padded(at, p[5], C, C);
    it.a2 = padded(at, p[7], C, C);
    return it;
}

/* What a frame needs beside itself, and strips of STRIP rows, which stay in the nearest cache. */
typedef struct {
    bf16 *pairs, *hidden;         /* of the frame, of the hidden units */
    bf16 *strip_rows, *strip_pairs;
    float *sums;
} scratch;

/* One mixer on one frame x [fp][C], in place; what the way back needs goes to `t` (absent forwards) at frame q of the group. */
static inline __attribute__((always_inline)) void mix(const mixer *w, scratch *s, float *x, int fp, int up, const trace *t,
                                                      int q) {
    bf16 *hb = t ? t->hb + (long)q * up * C : 0, *yv = t ? t->yv + (long)q * fp * C : 0;
    bf16 *gv = t ? t->gv + (long)q * fp * C : 0;
    uint32_t *xt = t ? (uint32_t *)(t->xt + (long)q * fp * C) : 0;
    for (int i = 0; i < fp; i += STRIP) {
        operand(x + i * C, STRIP, t ? s->strip_rows : 0, s->pairs + i * C);
        if (t) transposed(s->strip_rows, STRIP, C / 2, xt + i, fp);
    }
    for (int i = 0; i < up; i += STRIP) {
        multiply(w->w1 + (long)i * fp, s->pairs, s->sums, STRIP, C, fp, 0);
        rectified(s->sums, STRIP, w->b1 + i, 0, t ? hb + i * C : 0, s->hidden + i * C);
    }
    for (int i = 0; i < fp; i += STRIP) {
        float *y = x + i * C;
        bf16 *gb = t ? t->gb + i * C : s->strip_rows;
        multiply(w->w2 + (long)i * up, s->hidden, y, STRIP, C, up, 1);
        add_bias(y, STRIP, w->b2 + i, 0);
        stored(y, STRIP, w->grids);
        operand(y, STRIP, s->strip_rows, t ? yv + i * C : 0);
        multiply(s->strip_rows, w->v1, s->sums, STRIP, C, C, 0);
        rectified(s->sums, STRIP, 0, w->a1, gb, t ? gv + i * C : 0);
        multiply(gb, w->v2, y, STRIP, C, C, 1);
        add_bias(y, STRIP, 0, w->a2);
        stored(y, STRIP, w->grids + 3);
    }
}

/* The gradient d [fp][C] of one mixer's output becomes that of its input; it passes `stored` as it is. */
static inline __attribute__((always_inline)) void unmix(const mixer *w, scratch *s, float *d, int fp, int up, const trace *t,
                                                        int q) {
    long wide = (long)GROUP * fp / 2;
    uint32_t *dzt = (uint32_t *)t->dzt + q * fp / 2, *dgt = (uint32_t *)t->dgt + q * fp / 2;
    uint32_t *dyt = (uint32_t *)(t->dyt + (long)q * fp * C);
    for (int i = 0; i < fp; i += STRIP) {
        float *y = d + i * C;
        operand(y, STRIP, s->strip_rows, s->strip_pairs);
        transposed(s->strip_pairs, STRIP / 2, C, dzt + i / 2, wide);
        column_sums(y, STRIP, t->da2);
        multiply(s->strip_rows, w->v2t, s->sums, STRIP, C, C, 0);
        masked(s->sums, STRIP, t->gb + i * C);
        column_sums(s->sums, STRIP, t->da1);
        operand(s->sums, STRIP, s->strip_rows, s->strip_pairs);
        transposed(s->strip_pairs, STRIP / 2, C, dgt + i / 2, wide);
        multiply(s->strip_rows, w->v1t, y, STRIP, C, C, 1);
        row_sums(y, STRIP, t->db2 + 16 * i);
        operand(y, STRIP, s->strip_rows, s->pairs + i * C);
        transposed(s->strip_rows, STRIP, C / 2, dyt + i, fp);
    }
    for (int i = 0; i < up; i += STRIP) {
        multiply(w->w2t + (long)i * fp, s->pairs, s->sums, STRIP, C, fp, 0);
        masked(s->sums, STRIP, t->hb + (long)q * up * C + i * C);
        row_sums(s->sums, STRIP, t->db1 + 16 * i);
        operand(s->sums, STRIP, t->dhb + (long)q * up * C + i * C, s->hidden + i * C);
    }
    for (int i = 0; i < fp; i += STRIP) multiply(w->w1t + (long)i * up, s->hidden, d + i * C, STRIP, C, up, 1);
}

static void gather(const trace *t, int fp, int up, int frames) {
    int k = frames * fp / 32;
    product(t->dhb, C, (long)up * C, t->xt, 2 * fp, (long)fp * C, t->dw1, fp, up, fp, frames, 1);
    product(t->hb, C, (long)up * C, t->dyt, 2 * fp, (long)fp * C, t->dw2t, fp, up, fp, frames, 1);
    product(t->dgt, (long)GROUP * fp, 32, t->yv, 2 * C, TILE * 2 * C, t->dv1, C, C, C, k, 1);
    product(t->dzt, (long)GROUP * fp, 32, t->gv, 2 * C, TILE * 2 * C, t->dv2, C, C, C, k, 1);
}

static int up32(int n) { return (n + 31) / 32 * 32; }

static long stage_bytes(int fp, int up, int mixers) {
    long weights = 4L * 2 * fp * up + 8L * C * C + 4 * (fp + up + 2 * C);
    long frames = 2L * GROUP * C * (6L * fp + 2L * up) + 2L * fp * C;
    long sums = 4L * (2L * fp * up + 2L * C * C + 16L * (fp + up) + 2 * C);
    return mixers * (weights + frames + sums + 8192) + 65536 + 16L * (fp + up) * C + 8L * GROUP * fp * C;
}

static scratch scratches(arena *at, int fp, int up) {
    return (scratch){take(at, 2L * fp * C), take(at, 2L * up * C), take(at, 2L * STRIP * C), take(at, 2L * STRIP * C),
                     take(at, 4L * STRIP * C)};
}

int spectral_forward(const float *x, float *s, long frames, int f, int u, int mixers, const float *grids,
                     const float *const *p) {
    int fp = up32(f), up = up32(u);
    arena at;
    if (!opened(&at, stage_bytes(fp, up, mixers))) return 1;
    mixer *w = take(&at, mixers * sizeof *w);
    for (int m = 0; m < mixers; m++) w[m] = packed(&at, p + 8 * m, grids + 6 * m, f, u, fp, up, 0);
    bf16 *intra = turned_pairs(&at, p[8 * mixers], C, C);
    scratch tmp = scratches(&at, fp, up);
    float *y = take(&at, 4L * fp * C);
    long size = (long)fp * C;
    _tile_loadconfig(&CONFIG);
    for (long i = 0; i < frames; i++, x += size, s += size) {
        memcpy(y, x, 4 * size);
        for (int m = 0; m < mixers; m++) mix(w + m, &tmp, y, fp, up, 0, 0);
        memcpy(s, x, 4 * size);
        for (int r = 0; r < fp; r += STRIP) {
            operand(y + r * C, STRIP, tmp.strip_rows, 0);
            add_bias(s + r * C, STRIP, 0, p[8 * mixers + 1]);
            multiply(tmp.strip_rows, intra, s + r * C, STRIP, C, C, 1);
        }
    }
    _tile_release();
    free(at.base);
    return 0;
}

static void out_rows(const float *sums, int rows, int columns, int stride, float *to) {
    for (int i = 0; i < rows; i++) memcpy(to + (long)i * columns, sums + (long)i * stride, 4L * columns);
}

static void out_turned(const float *sums, int rows, int columns, int stride, float *to) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) to[(long)j * rows + i] = sums[(long)i * stride + j];
}

static void out_lanes(const float *sums, int n, float *to) {
    for (int i = 0; i < n; i++) to[i] = _mm512_reduce_add_ps(_mm512_loadu_ps(sums + 16L * i));
}

int spectral_backward(const float *x, const float *ds, float *dx, long frames, int f, int u, int mixers, const float *grids,
                      const float *const *p, float *const *g) {
    int fp = up32(f), up = up32(u);
    arena at;
    if (!opened(&at, stage_bytes(fp, up, mixers))) return 1;
    mixer *w = take(&at, mixers * sizeof *w);
    trace *t = take(&at, mixers * sizeof *t);
    long size = (long)fp * C, hidden = (long)up * C;
    for (int m = 0; m < mixers; m++) {
        w[m] = packed(&at, p + 8 * m, grids + 6 * m, f, u, fp, up, 1);
        bf16 **of_bins[] = {&t[m].xt, &t[m].yv, &t[m].gv, &t[m].dyt, &t[m].dzt, &t[m].dgt};
        for (int i = 0; i < 6; i++) *of_bins[i] = take(&at, 2 * GROUP * size);
        t[m].gb = take(&at, 2 * size);
        t[m].hb = take(&at, 2 * GROUP * hidden);
        t[m].dhb = take(&at, 2 * GROUP * hidden);
        t[m].dw1 = take(&at, 4L * fp * up);
        t[m].dw2t = take(&at, 4L * fp * up);
        t[m].dv1 = take(&at, 4L * C * C);
        t[m].dv2 = take(&at, 4L * C * C);
        t[m].db1 = take(&at, 64L * up);
        t[m].db2 = take(&at, 64L * fp);
        t[m].da1 = take(&at, 4L * C);
        t[m].da2 = take(&at, 4L * C);
    }
    bf16 *intra = pairs_of_weights(&at, p[8 * mixers], C, C);
    scratch tmp = scratches(&at, fp, up);
    float *y = take(&at, 4 * size), *dwi = take(&at, 4L * C * C), *dbi = take(&at, 4L * C);
    bf16 *yv = take(&at, 2 * GROUP * size), *dst = take(&at, 2 * GROUP * size);
    _tile_loadconfig(&CONFIG);
    for (long i = 0; i < frames; i += GROUP) {
        int count = frames - i < GROUP ? frames - i : GROUP;
        for (int q = 0; q < count; q++, x += size, ds += size, dx += size) {
            memcpy(y, x, 4 * size);
            for (int m = 0; m < mixers; m++) mix(w + m, &tmp, y, fp, up, t + m, q);
            operand(y, fp, 0, yv + q * size);
            column_sums(ds, fp, dbi);
            for (int r = 0; r < fp; r += STRIP) {
                operand(ds + r * C, STRIP, tmp.strip_rows, tmp.strip_pairs);
                transposed(tmp.strip_pairs, STRIP / 2, C, (uint32_t *)dst + (q * fp + r) / 2, (long)GROUP * fp / 2);
                multiply(tmp.strip_rows, intra, y + r * C, STRIP, C, C, 0);
            }
            for (int m = mixers - 1; m >= 0; m--) unmix(w + m, &tmp, y, fp, up, t + m, q);
            for (long j = 0; j < size; j += 16)
                _mm512_storeu_ps(dx + j, _mm512_add_ps(_mm512_loadu_ps(ds + j), _mm512_loadu_ps(y + j)));
        }
        for (int m = 0; m < mixers; m++) gather(t + m, fp, up, count);
        product(dst, (long)GROUP * fp, 32, yv, 2 * C, TILE * 2 * C, dwi, C, C, C, count * fp / 32, 1);
    }
    _tile_release();
    for (int m = 0; m < mixers; m++, g += 8) {
        out_rows(t[m].dw1, u, f, fp, g[0]);
        out_lanes(t[m].db1, u, g[1]);
        out_turned(t[m].dw2t, u, f, fp, g[2]);
        out_lanes(t[m].db2, f, g[3]);
        memcpy(g[4], t[m].dv1, 4L * C * C);
        memcpy(g[5], t[m].da1, 4L * C);
        memcpy(g[6], t[m].dv2, 4L * C * C);
        memcpy(g[7], t[m].da2, 4L * C);
    }
    memcpy(g[0], dwi, 4L * C * C);
    memcpy(g[1], dbi, 4L * C);
    free(at.base);
    return 0;
}

/* ---- the temporal stage: out = s + inter(lstm(s)) ---- */

/* 1 / (1 + exp(-x)), within 2e-7. */
static inline __m512 sigmoid(__m512 x) {
    const __m512 bound = _mm512_set1_ps(80.0f), one = _mm512_set1_ps(1.0f);
    __m512 z = _mm512_mul_ps(_mm512_max_ps(_mm512_min_ps(x, bound), _mm512_sub_ps(_mm512_setzero_ps(), bound)),
                             _mm512_set1_ps(-1.44269504f));
    __m512 whole = _mm512_roundscale_ps(z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), r = _mm512_sub_ps(z, whole);
    __m512 e = _mm512_set1_ps(1.3333558e-3f);
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(9.6181291e-3f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(5.5504109e-2f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(2.4022651e-1f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(6.9314718e-1f));
    e = _mm512_fmadd_ps(e, r, one);
    __m512 sum = _mm512_add_ps(one, _mm512_scalef_ps(e, whole)), inverse = _mm512_rcp14_ps(sum);
    return _mm512_mul_ps(inverse, _mm512_fnmadd_ps(sum, inverse, _mm512_set1_ps(2.0f)));
}

static inline __m512 tangent(__m512 x) {
    return _mm512_fmsub_ps(_mm512_set1_ps(2.0f), sigmoid(_mm512_add_ps(x, x)), _mm512_set1_ps(1.0f));
}

static inline __m512 wide(const bf16 *x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16));
}

static inline void store16(bf16 *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x)); }

static inline void keep(bf16 *to, __m512 low, __m512 high) { _mm512_stream_si512((__m512i *)to, narrow(low, high)); }

/* STRIP rows of an LSTM's step: from sums z and bias to gates, cells and h; the state c is carried in FP32. What only the way
 * back reads goes past the cache. */
static inline void step(const float *z, const float *bias, float *state, bf16 *gates, bf16 *cells, bf16 *h, bf16 *hs) {
    for (int r = 0; r < STRIP; r++, z += GATES, state += H, gates += GATES, cells += H, h += H, hs += H) {
        __m512 i[2], f[2], g[2], o[2], c[2], y[2];
        for (int a = 0; a < 2; a++) {
            const float *x = z + 16 * a, *b = bias + 16 * a;
            i[a] = sigmoid(_mm512_add_ps(_mm512_loadu_ps(x), _mm512_loadu_ps(b)));
            f[a] = sigmoid(_mm512_add_ps(_mm512_loadu_ps(x + H), _mm512_loadu_ps(b + H)));
            g[a] = tangent(_mm512_add_ps(_mm512_loadu_ps(x + 2 * H), _mm512_loadu_ps(b + 2 * H)));
            o[a] = sigmoid(_mm512_add_ps(_mm512_loadu_ps(x + 3 * H), _mm512_loadu_ps(b + 3 * H)));
            c[a] = _mm512_fmadd_ps(f[a], _mm512_loadu_ps(state + 16 * a), _mm512_mul_ps(i[a], g[a]));
            _mm512_storeu_ps(state + 16 * a, c[a]);
            y[a] = _mm512_mul_ps(o[a], tangent(c[a]));
        }
        _mm512_storeu_si512(h, narrow(y[0], y[1]));
        keep(hs, y[0], y[1]);
        keep(cells, c[0], c[1]);
        keep(gates, i[0], i[1]);
        keep(gates + H, f[0], f[1]);
        keep(gates + 2 * H, g[0], g[1]);
        keep(gates + 3 * H, o[0], o[1]);
    }
}

/* Its way back: from dh and dc [STRIP][H] to the gradients of the gates' sums, in rows; dc becomes that of the state before. */
static inline void step_back(const float *dh, float *dc, const bf16 *gates, const bf16 *now, const bf16 *before, bf16 *to,
                             float *db) {
    const __m512 one = _mm512_set1_ps(1.0f);
    for (int j = 0; j < H; j += 16) {
        __m512 sum[4];
        for (int a = 0; a < 4; a++) sum[a] = _mm512_loadu_ps(db + a * H + j);
        for (int r = 0; r < STRIP; r++) {
            const bf16 *kept = gates + r * GATES + j;
            int at = r * H + j;
            __m512 i = wide(kept), f = wide(kept + H), g = wide(kept + 2 * H), o = wide(kept + 3 * H);
            __m512 tc = tangent(wide(now + at)), od = _mm512_mul_ps(o, _mm512_loadu_ps(dh + at));
            __m512 e = _mm512_add_ps(_mm512_loadu_ps(dc + at), _mm512_fnmadd_ps(_mm512_mul_ps(tc, tc), od, od));
            __m512 ei = _mm512_mul_ps(e, i), ef = _mm512_mul_ps(e, f);
            _mm512_storeu_ps(dc + at, ef);
            __m512 part[4] = {
                _mm512_mul_ps(_mm512_mul_ps(ei, g), _mm512_sub_ps(one, i)),
                _mm512_mul_ps(_mm512_mul_ps(ef, wide(before + at)), _mm512_sub_ps(one, f)),
                _mm512_fnmadd_ps(_mm512_mul_ps(g, g), ei, ei),
                _mm512_mul_ps(_mm512_mul_ps(od, tc), _mm512_sub_ps(one, o)),
            };
            for (int a = 0; a < 4; a++) {
                sum[a] = _mm512_add_ps(sum[a], part[a]);
                store16(to + r * GATES + a * H + j, part[a]);
            }
        }
        for (int a = 0; a < 4; a++) _mm512_storeu_ps(db + a * H + j, sum[a]);
    }
}

/* Parameters: weight_ih, weight_hh, bias_ih, bias_hh; inter_linear's weight and bias. Keeps gates [n][t][fp][GATES] (i, f, g,
 * o, each after its function), cells c and outputs h [n][t][fp][H] for the way back. */
int temporal_forward(const float *s, float *out, bf16 *gates, bf16 *cells, bf16 *hs, long n, long t, int fp,
                     const float *const *p) {
    arena at;
    if (!opened(&at, 65536 + 12L * GATES * C + 4L * fp * (GATES + 2 * C))) return 1;
    bf16 *w = take(&at, 2L * 2 * C * GATES); /* both weights in pairs, one under the other */
    memcpy(w, turned_pairs(&at, p[0], GATES, C), 2L * C * GATES);
    memcpy(w + C * GATES, turned_pairs(&at, p[1], GATES, H), 2L * H * GATES);
    bf16 *inter = turned_pairs(&at, p[4], C, H), *given = take(&at, 4L * fp * C); /* a frame, then h before it */
    float *sums = take(&at, 4L * STRIP * GATES), *state = take(&at, 4L * fp * H), *bias = take(&at, 4L * GATES);
    for (int i = 0; i < GATES; i++) bias[i] = p[2][i] + p[3][i];
    long size = (long)fp * C;
    _tile_loadconfig(&CONFIG);
    for (long k = 0; k < n * t; k++, s += size, out += size, hs += size, cells += size, gates += size * 4) {
        if (k % t == 0) {
            memset(state, 0, 4 * size);
            memset(given + size, 0, 2 * size);
        }
        for (int r = 0; r < fp; r += STRIP) {
            long at_strip = (long)r * C;
            bf16 *h = given + size + at_strip;
            operand(s + at_strip, STRIP, given + at_strip, 0);
            product(given + at_strip, C, size, w, 2 * GATES, C * GATES, sums, GATES, STRIP, GATES, 2, 0);
            step(sums, bias, state + at_strip, gates + 4 * at_strip, cells + at_strip, h, hs + at_strip);
            memcpy(out + at_strip, s + at_strip, 4 * STRIP * C);
            add_bias(out + at_strip, STRIP, 0, p[5]);
            multiply(h, inter, out + at_strip, STRIP, C, H, 1);
        }
    }
    _tile_release();
    _mm_sfence();
    free(at.base);
    return 0;
}

int temporal_backward(const float *s, const float *dout, float *ds, const bf16 *gates, const bf16 *cells, const bf16 *hs, long n,
                      long t, int fp, const float *const *p, float *const *g) {
    arena at;
    long size = (long)fp * C, wide_words = (long)GROUP * fp / 2;
    if (!opened(&at, 131072 + 12L * GATES * C + GROUP * size * (2 * 4 + 2 * 4) + 64 * size)) return 1;
    bf16 *wih = pairs_of_weights(&at, p[0], GATES, C), *whh = pairs_of_weights(&at, p[1], GATES, H);
    bf16 *inter = pairs_of_weights(&at, p[4], C, H), *rows = take(&at, 2L * STRIP * C), *pairs = take(&at, 2L * STRIP * C);
    bf16 *dot = take(&at, 2 * GROUP * size), *xt = take(&at, 2 * GROUP * size), *ht = take(&at, 2 * GROUP * size);
    bf16 *hv = take(&at, 2 * GROUP * size), *dgv = take(&at, 2 * GROUP * 4 * size), *dgb = take(&at, 2 * 4 * size);
    bf16 *none = take(&at, 2 * size);
    float *dh = take(&at, 4L * STRIP * H), *dc = take(&at, 4 * size);
    float *dwih = take(&at, 4L * GATES * C), *dwhh = take(&at, 4L * GATES * H), *dwo = take(&at, 4L * C * H);
    float *dbo = take(&at, 4L * C), *db = take(&at, 4L * GATES);
    _tile_loadconfig(&CONFIG);
    for (long m = 0; m < n; m++) {
        memset(dc, 0, 4 * size);
        int q = 0;
        for (long k = t - 1; k >= 0; k--) {
            for (int r = 0; r < fp; r += STRIP) {
                long strip = (long)r * C, off = (m * t + k) * size + strip;
                int word = (q * fp + r) / 2;
                bf16 *dg = dgb + 4 * strip, *turned = dgv + 4 * (q * size + strip);
                operand(dout + off, STRIP, rows, pairs);
                transposed(pairs, STRIP / 2, C, (uint32_t *)dot + word, wide_words);
                column_sums(dout + off, STRIP, dbo);
                multiply(rows, inter, dh, STRIP, H, C, 0);
                if (k < t - 1) multiply(dg, whh, dh, STRIP, H, GATES, 1);
                const bf16 *before = k ? cells + off - size : none, *h_before = k ? hs + off - size : none;
                step_back(dh, dc + strip, gates + 4 * off, cells + off, before, dg, db);
                for (int i = 0; i < STRIP; i += 2)
                    for (int j = 0; j < GATES; j += 32)
                        interleave(_mm512_loadu_si512(dg + i * GATES + j), _mm512_loadu_si512(dg + (i + 1) * GATES + j),
                                   turned + i * GATES + 2 * j);
                memcpy(ds + off, dout + off, 4 * STRIP * C);
                multiply(dg, wih, ds + off, STRIP, C, GATES, 1);
                operand(s + off, STRIP, 0, pairs);
                transposed(pairs, STRIP / 2, C, (uint32_t *)xt + word, wide_words);
                pairs_of(h_before, STRIP, pairs);
                transposed(pairs, STRIP / 2, H, (uint32_t *)ht + word, wide_words);
                pairs_of(hs + off, STRIP, hv + q * size + strip);
            }
            if (++q == GROUP || !k) {
                int tiles = q * fp / 32;
                product(xt, (long)GROUP * fp, 32, dgv, 2 * GATES, TILE * 2 * GATES, dwih, GATES, C, GATES, tiles, 1);
                product(ht, (long)GROUP * fp, 32, dgv, 2 * GATES, TILE * 2 * GATES, dwhh, GATES, H, GATES, tiles, 1);
                product(dot, (long)GROUP * fp, 32, hv, 2 * H, TILE * 2 * H, dwo, H, C, H, tiles, 1);
                q = 0;
            }
        }
    }
    _tile_release();
    out_turned(dwih, C, GATES, GATES, g[0]);
    out_turned(dwhh, H, GATES, GATES, g[1]);
    memcpy(g[2], db, 4L * GATES);
    memcpy(g[3], db, 4L * GATES);
    memcpy(g[4], dwo, 4L * C * H);
    memcpy(g[5], dbo, 4L * C);
    free(at.base);
    return 0;
}
