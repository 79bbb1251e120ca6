/*
 * Prints a checksum of FP32 and BF16 results on many operands. The default build and REFIMPL_NO_FLOAT must
 * print the same. NaN is counted as one value, as only BF16 patterns leave the rules.
 */
#include <stdio.h>

#include "bf16.h"

#define F32_CANONICAL_NAN 0x7FC00000u

static const uint32_t special[] = {
    0x00000000, 0x00000001, 0x00000002, 0x00000003, 0x007FFFFF, 0x00800000, 0x00800001, 0x00FFFFFF,
    0x01000000, 0x0B800000, 0x17FFFFFF, 0x1F800000, 0x20000000, 0x33800000, 0x33800001, 0x34000000,
    0x3F000000, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3F808000, 0x3F818000, 0x3FFFFFFF, 0x40000000,
    0x4B000000, 0x4B7FFFFF, 0x4B800000, 0x4B800001, 0x5F800000, 0x5F7FFFFF, 0x7F000000, 0x7F7F8000,
    0x7F7FFFFE, 0x7F7FFFFF, 0x7F800000, 0x7FC00000,
};
#define SPECIALS (sizeof special / sizeof special[0])

static uint32_t checksum = 1;
static uint32_t random_state = 12345;

static uint32_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static void note(uint32_t value)
{
    checksum = (checksum ^ value) * 16777619u + (checksum >> 15);
}

static void note_f32(f32_t value)
{
    const uint32_t bits = f32_bits(value);

    note((bits & 0x7FFFFFFFu) > 0x7F800000u ? F32_CANONICAL_NAN : bits);
    note(bf16_from_f32(value));
}

static void pair(uint32_t a, uint32_t b)
{
    note_f32(f32_add(f32_from_bits(a), f32_from_bits(b)));
    note_f32(f32_multiply(f32_from_bits(a), f32_from_bits(b)));
}

int main(void)
{
    uint32_t i, j;

    for (i = 0; i < 2 * SPECIALS; i++) {
        const uint32_t a = special[i / 2] | (i & 1) << 31;

        note_f32(f32_from_int32((int32_t)(i < SPECIALS ? special[i] : 0u - special[i - SPECIALS])));
        note((uint32_t)round_half_even_f32(a, -128 + (int32_t)i, 127));
        for (j = 0; j < 2 * SPECIALS; j++) {
            pair(a, special[j / 2] | (j & 1) << 31);
        }
        for (j = 0; j < 10000; j++) {
            pair(a, random_bits());
        }
    }
    for (i = 0; i < 2000000; i++) {
        const uint32_t a = random_bits();
        const uint32_t b = random_bits();

        pair(a, b);
        pair(a, (a & 0xFF800000u) ^ (b & 0x8FFFFFFFu));     /* near in exponent: cancellation */
        note_f32(f32_from_int32((int32_t)a >> (b & 31)));
        note((uint32_t)round_half_even_f32((a & 0x8FFFFFFFu) | 0x40000000u, -32768, 32767));
        note(bf16_add((uint16_t)a, (uint16_t)b));
        note(bf16_multiply((uint16_t)a, (uint16_t)b));
    }
    printf("%08lx\n", (unsigned long)checksum);
    return 0;
}
