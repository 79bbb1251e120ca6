/*
 * The worked examples of the specification, for the rules that run on the device. Prints what differs; exit
 * code 1 then.
 */
#include <stdio.h>

#include "fourier.h"
#include "operators.h"
#include "tables.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static int failures;

static void equal(const char *rule, uint32_t index, int64_t got, int64_t wanted)
{
    if (got != wanted) {
        printf("%s, element %lu: %ld, not %ld\n", rule, (unsigned long)index, (long)got, (long)wanted);
        failures++;
    }
}

static void rounding(void)
{
    static const int32_t floors[][2] = {{-3, -2}, {-2, -1}, {-1, -1}, {3, 1}};
    static const int32_t halves[][2] = {{-3, -1}, {-2, -1}, {-1, 0}, {1, 1}, {2, 1}, {3, 2}};
    static const int32_t evens[][2] = {{-6, -2}, {-2, 0}, {2, 0}, {5, 1}, {6, 2}, {7, 2}};
    static const int64_t shifts[][3] = {
        {3, 1, 2}, {-3, 1, -1}, {-1, 63, 0}, {5, -2, 20}, {2, -31, 2147483647}, {-1, -31, INT32_MIN},
        {-1, -40, INT32_MIN}, {1099511627776, 8, 2147483647}, {1099511627776, 10, 1073741824},
    };
    static const uint32_t floats[][2] = {
        {0x3F000000, 0}, {0x3FC00000, 2}, {0x40200000, 2}, {0xBF000000, 0}, {0xBFC00000, 0xFFFFFFFE},
        {0x42FD0000, 126}, {0x42FEFAE1, 127}, {0x7149F2CA, 127}, {0xF149F2CA, 0xFFFFFF80},
    };
    uint32_t i;

    for (i = 0; i < COUNT(floors); i++) {
        equal("N-1", i, shift_floor(floors[i][0], 1), floors[i][1]);
    }
    for (i = 0; i < COUNT(halves); i++) {
        equal("N-2", i, norm(halves[i][0], 1), halves[i][1]);
        equal("N-2", i, norm64(halves[i][0], 1), halves[i][1]);
    }
    for (i = 0; i < COUNT(evens); i++) {
        equal("N-3", i, shift_half_even(evens[i][0], 2), evens[i][1]);
    }
    for (i = 0; i < COUNT(shifts); i++) {
        equal("N-5", i, shift_saturate_int32(shifts[i][0], (int32_t)shifts[i][1]), shifts[i][2]);
    }
    for (i = 0; i < COUNT(floats); i++) {
        equal("N-6", i, round_half_even_f32(floats[i][0], -128, 127), (int32_t)floats[i][1]);
    }
}

static void bf16(void)
{
    static const uint32_t rounded[][2] = {
        {0x3F808000, 0x3F80}, {0x3F818000, 0x3F82}, {0x3F808001, 0x3F81}, {0x7F7F7FFF, 0x7F7F},
        {0x7F7F8000, 0x7F80}, {0x00008000, 0x0000}, {0x00018000, 0x0002}, {0x80000001, 0x8000},
        {0xFFC00001, 0x7FC0},
    };
    static const bf16_t sums[][3] = {
        {0x3F80, 0x3B80, 0x3F80}, {0x3F81, 0x3B80, 0x3F82}, {0x3F80, 0xBF80, 0x0000},
        {0x7F7F, 0x7B80, 0x7F80}, {0x7F80, 0xFF80, 0x7FC0}, {0x0001, 0x0001, 0x0002},
    };
    static const bf16_t products[][3] = {
        {0x3F81, 0x3F81, 0x3F82}, {0x3FC0, 0x3F83, 0x3FC4}, {0x0080, 0x3F00, 0x0040},
        {0x0001, 0x3F00, 0x0000}, {0x7F7F, 0x4000, 0x7F80}, {0x0000, 0xFF80, 0x7FC0},
    };
    static const int64_t scaled[][3] = {
        {257, -22, 0x3880}, {259, -22, 0x3882}, {511, -22, 0x3900}, {1, -36, 0x2D80},
        {INT32_MIN, -22, 0xC400}, {1073741823, -30, 0x3F80},
    };
    static const bf16_t activations[][3] = {
        {0x0000, 0x3F00, 0x0000}, {0x8000, 0x3F00, 0x8000}, {0x0001, 0x3F00, 0x0001},
        {0x3F80, 0x3F3B, 0x3F43}, {0xBF80, 0x3E8A, 0xBF43}, {0x3F00, 0x3F1F, 0x3EED},
        {0x4100, 0x3F80, 0x3F80}, {0xC100, 0x39B0, 0xBF80}, {0xC2BA, 0x0000, 0xBF80},
        {0x7F80, 0x3F80, 0x3F80}, {0xFF80, 0x0000, 0xBF80}, {0x7F81, 0x7FC0, 0x7FC0},
    };
    uint32_t i;

    for (i = 0; i < COUNT(rounded); i++) {
        equal("B-1", i, bf16_from_f32(f32_from_bits(rounded[i][0])), rounded[i][1]);
    }
    for (i = 0; i < COUNT(sums); i++) {
        equal("B-3", i, bf16_add(sums[i][0], sums[i][1]), sums[i][2]);
    }
    for (i = 0; i < COUNT(products); i++) {
        equal("B-4", i, bf16_multiply(products[i][0], products[i][1]), products[i][2]);
    }
    for (i = 0; i < COUNT(scaled); i++) {
        equal("B-5", i, bf16_from_scaled((int32_t)scaled[i][0], (int32_t)scaled[i][1]), scaled[i][2]);
    }
    for (i = 0; i < COUNT(activations); i++) {
        equal("B-6", i, sigmoid_bf16[activations[i][0]], activations[i][1]);
        equal("B-6", i, tanh_bf16[activations[i][0]], activations[i][2]);
    }
}

static void conversions(void)
{
    static const quantize_bf16_t q5 = {0x43000000, 0, -128, 127};
    static const bf16_t q5_in[] = {0x3B80, 0x3C40, 0xBB80, 0x3F80, 0xFF80, 0x7FC0};
    static const int8_t q5_out[] = {0, 2, 0, 127, -128, 0};
    static const dequantize_bf16_t q7 = {0x3DCCCCCD, -3};
    static const int8_t q7_in[] = {-128, -3, 7, 127};
    static const bf16_t q7_out[] = {0xC148, 0x0000, 0x3F80, 0x4150};
    static const requantize_codes_t q8 = {-64, 8421376, 15, -16384, -32768, 32767};
    static const int8_t q8_in[] = {-128, -64, -63, 0, 127};
    static const int16_t q8_out[] = {-32768, -16384, -16127, 64, 32703};
    static const int32_t q9_total[] = {1000};
    static const uint32_t q9_scale[] = {0x38D1B717};
    static const requantizer_t q9 = {LAW_BF16, 0, 0, 0, 0, q9_total, 0, 0, 0, q9_scale};
    static const int32_t q9_cases[][2] = {{-1000, 0}, {0, 0x3DCD}, {16777217, 0x44D2}, {-70000, 0xC0DD}};
    static const uint8_t g2_multiplier[] = {103};
    static const int32_t g2_addend[] = {2731100};
    static const uint8_t g2_shift[] = {14};
    static const requantizer_t g2 = {LAW_FOLDED, 0, 0, 255, -128, 0, g2_multiplier, g2_addend, g2_shift, 0};
    static const int32_t g2_cases[][2] = {{-25216, -120}, {-12608, -41}, {3060, 57}, {41339, 127}};
    static const int32_t g3_total[] = {3435722};
    static const uint8_t g3_multiplier[] = {19};
    static const uint8_t g3_shift[] = {11};
    static const requantizer_t g3 = {
        LAW_NORM_TWICE, 8, 0, 65535, -32768, g3_total, g3_multiplier, 0, g3_shift, 0,
    };
    static const int32_t g3_cases[][2] = {
        {-6455296, -32768}, {-3227648, -30837}, {3060, -865}, {4386096, 32767},
    };
    static const add_two_stage_t e1 = {71, 4, 209, 10, -12};
    static const int8_t e1_a[] = {-128, -64, 0, 127, 10};
    static const int8_t e1_b[] = {-128, 13, 50, 127, -100};
    static const int8_t e1_out[] = {-128, -53, 12, 127, -9};
    static const add_joint_t e2 = {-64, 3640, 7626007, 6676, 23, -53, -128, 127};
    static const int16_t e2_b[] = {-32768, 3641, 50, 32767, -10000};
    static const int8_t e2_out[] = {-128, -53, 2, 127, 3};
    static const multiply_t e3 = {-128, 0, 43862, 23, 0, -128, 127};
    static const int8_t e3_a[] = {-128, 0, 127, 127, 64};
    static const int8_t e3_b[] = {100, -1, 127, -128, -77};
    static const int8_t e3_out[] = {0, -1, 127, -128, -77};
    int8_t codes[8];
    int16_t wide[8];
    bf16_t patterns[8];
    source_t a, b;
    target_t y;
    uint32_t i;

    y.data = codes;
    y.format = FORMAT_INT8;
    a.format = FORMAT_INT8;
    quantize_bf16(q5_in, COUNT(q5_in), &q5, y);
    for (i = 0; i < COUNT(q5_out); i++) {
        equal("Q-5", i, codes[i], q5_out[i]);
    }
    a.data = q7_in;
    dequantize_bf16(a, COUNT(q7_in), &q7, patterns);
    for (i = 0; i < COUNT(q7_out); i++) {
        equal("Q-7", i, patterns[i], q7_out[i]);
    }
    a.data = q8_in;
    y.data = wide;
    y.format = FORMAT_INT16;
    requantize_codes(a, COUNT(q8_in), &q8, y);
    for (i = 0; i < COUNT(q8_out); i++) {
        equal("Q-8", i, wide[i], q8_out[i]);
    }
    for (i = 0; i < 4; i++) {
        equal("Q-9", i, requantize(&q9, 0, q9_cases[i][0]), q9_cases[i][1]);
        equal("G-2", i, requantize(&g2, 0, g2_cases[i][0]), g2_cases[i][1]);
        equal("G-3", i, requantize(&g3, 0, g3_cases[i][0]), g3_cases[i][1]);
    }
    add_two_stage(e1_a, e1_b, COUNT(e1_a), &e1, codes);
    for (i = 0; i < COUNT(e1_out); i++) {
        equal("E-1", i, codes[i], e1_out[i]);
    }
    y.data = codes;
    y.format = FORMAT_INT8;
    a.data = e1_a;
    b.data = e2_b;
    b.format = FORMAT_INT16;
    add_joint(a, b, COUNT(e2_b), &e2, y);
    for (i = 0; i < COUNT(e2_out); i++) {
        equal("E-2", i, codes[i], e2_out[i]);
    }
    a.data = e3_a;
    b.data = e3_b;
    b.format = FORMAT_INT8;
    multiply(a, b, COUNT(e3_a), &e3, y);
    for (i = 0; i < COUNT(e3_out); i++) {
        equal("E-3", i, codes[i], e3_out[i]);
    }
}

static void fourier(void)
{
    static const stft_t f4 = {hann_q30, twiddle_q30};
    static const uint32_t f4_bins[] = {0, 1, 64, 128};
    static const int32_t f4_out[][2] = {{-1251939, 0}, {513645, -242592}, {-281834, 23}, {-207481, 0}};
    static const block_to_code_t f6 = {10485760, 43, -28, -128, 127};
    static const int32_t f6_in[] = {-54394880, 123456789};
    static const int8_t f6_out[] = {-93, 119};
    static const uint8_t re[] = {0};
    static const uint8_t im[] = {1};
    static const to_block_t f7 = {re, im, -7, 13};
    static const bf16_t f7_in[] = {0x3F80, 0xBFC0, 0x0000, 0x7FC0, 0x3620, 0xB660, 0xB481, 0x8000};
    static const int32_t f7_out[] = {1048576, -1572864, 0, 0, 2, -4, 0, 0};
    static const int8_t f8_in[] = {-128, 127, -7, 0};
    static const int32_t f8_out[] = {-991232, 1097728, 0, 57344};
    static const int32_t f11_in[] = {
        2048, 6144, -2048, -6144, 2049, 134217727, -134217728, 134213632, 134215680, -134219777,
    };
    static const int16_t f11_out[] = {0, 2, 0, -2, 1, 32767, -32768, 32767, 32767, -32768};
    int16_t frame[REFIMPL_FRAME];
    int32_t mantissa[2 * REFIMPL_BINS];
    int16_t pcm[COUNT(f11_in)];
    int8_t codes[2];
    int32_t exponent = 0;
    source_t x;
    target_t y;
    uint32_t i;

    for (i = 0; i < REFIMPL_FRAME; i++) {
        frame[i] = (int16_t)(i * i % 7) - 3;
    }
    frame[10] = 300;
    frame[200] = -77;
    stft(frame, &f4, mantissa, &exponent);
    equal("F-4 exponent", 0, exponent, 6);
    for (i = 0; i < COUNT(f4_bins); i++) {
        equal("F-4", i, mantissa[2 * f4_bins[i]], f4_out[i][0]);
        equal("F-4", i, mantissa[2 * f4_bins[i] + 1], f4_out[i][1]);
    }
    exponent = 0;
    y.data = codes;
    y.format = FORMAT_INT8;
    block_to_code(f6_in, &exponent, 2, &f6, y);
    equal("F-6", 0, codes[0], f6_out[0]);
    equal("F-6", 1, codes[1], f6_out[1]);
    exponent = 6;
    equal("F-5", 0, bf16_from_scaled(-5439488, -22 - exponent), 0xBCA6);
    equal("F-5", 1, bf16_from_scaled(257, -22 - exponent), 0x3580);
    bf16_to_block(f7_in, 4, 2, &f7, 1, mantissa, &exponent);
    equal("F-7 exponent", 0, exponent, 20);
    for (i = 0; i < COUNT(f7_out); i++) {
        equal("F-7", i, mantissa[i], f7_out[i]);
    }
    x.data = f8_in;
    x.format = FORMAT_INT8;
    code_to_block(x, 2, 2, &f7, 1, mantissa, &exponent);
    equal("F-8 exponent", 0, exponent, 0);
    for (i = 0; i < COUNT(f8_out); i++) {
        equal("F-8", i, mantissa[i], f8_out[i]);
    }
    to_pcm(f11_in, 1, COUNT(f11_in), pcm, &exponent);
    equal("F-11 clipped", 0, exponent, 3);
    for (i = 0; i < COUNT(f11_out); i++) {
        equal("F-11", i, pcm[i], f11_out[i]);
    }
}

int main(void)
{
    rounding();
    bf16();
    conversions();
    fourier();
    printf("examples: %d differ\n", failures);
    return failures != 0;
}
