/*
 * Separates a stream: raw PCM in, raw PCM out, both little-endian int16 at 16 kHz.
 *
 *     separate < mono.raw > separated.raw
 *
 * Output is interleaved: sample 0 of speaker 1, of speaker 2, ..., then sample 1; as many samples per speaker
 * as came in, 10 ms behind, the last ones at the end of the input. Exit code 0; 1 where reading or writing
 * failed or the input ends inside a sample; 2 for any argument.
 */
#include <stdio.h>

#include "model.h"
#include "refimpl_device.h"

static void emit(void *context, const int16_t *pcm, uint32_t count)
{
    uint8_t bytes[2 * MODEL_SPEAKERS * REFIMPL_HOP];
    uint8_t *at = bytes;
    int *failed = context;
    uint32_t i, s;

    for (i = 0; i < count; i++) {
        for (s = 0; s < MODEL_SPEAKERS; s++) {
            const uint16_t word = (uint16_t)pcm[s * REFIMPL_HOP + i];

            *at++ = (uint8_t)word;
            *at++ = (uint8_t)(word >> 8);
        }
    }
    *failed |= fwrite(bytes, 2 * MODEL_SPEAKERS, count, stdout) != count;
}

static int fail(int code, const char *problem)
{
    fprintf(stderr, "separate: %s\n", problem);
    return code;
}

int main(int argc, char **argv)
{
    static stream_t stream;
    uint8_t bytes[2 * REFIMPL_HOP];
    int16_t samples[REFIMPL_HOP];
    size_t got;
    uint32_t i;
    int failed = 0;

    (void)argv;
    if (argc > 1) {
        return fail(2, "takes no arguments: raw 16 kHz mono int16 from standard input, separated to standard output");
    }
    stream_reset(&stream, &model, emit, 0, &failed);
    do {
        got = fread(bytes, 1, sizeof bytes, stdin);
        for (i = 0; i < got / 2; i++) {
            const uint32_t word = bytes[2 * i] | (uint32_t)bytes[2 * i + 1] << 8;

            samples[i] = (int16_t)(word < 0x8000u ? (int32_t)word : (int32_t)word - 0x10000);
        }
        stream_push(&stream, samples, (uint32_t)got / 2);
    } while (got == sizeof bytes && !failed);
    stream_flush(&stream);
    if (failed || fflush(stdout) != 0) {
        return fail(1, "cannot write to standard output");
    }
    if (ferror(stdin) || got % 2 != 0) {
        return fail(1, "cannot read standard input, or it ends inside a sample");
    }
    return 0;
}
