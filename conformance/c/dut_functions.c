/* Cases of level numerics: the functions below the operators that run on the device. */
#include <string.h>

#include "dut.h"

static int32_t narrow(int64_t value)
{
    if (value < INT32_MIN || value > INT32_MAX) {
        fail(2, "a value is wider than 32 bits", "input");
    }
    return (int32_t)value;
}

/* What a function is given beside its operands: the constants of the step */
static int32_t lowest, highest;
static requantizer_t rq;

static int64_t floored(int64_t a, int64_t b)
{
    return shift_floor(narrow(a), narrow(b));
}

static int64_t half_up(int64_t a, int64_t b)
{
    return norm64(a, narrow(b));
}

static int64_t half_even(int64_t a, int64_t b)
{
    return shift_half_even(a, narrow(b));
}

static int64_t shifted(int64_t a, int64_t b)
{
    return shift_saturate_int32(a, narrow(b));
}

static int64_t saturated(int64_t a, int64_t b)
{
    (void)b;
    return saturate64(a, lowest, highest);
}

static int64_t rounded_f32(int64_t a, int64_t b)
{
    (void)b;
    return round_half_even_f32((uint32_t)a, lowest, highest);
}

static int64_t encoded(int64_t a, int64_t b)
{
    (void)b;
    return bf16_from_f32(f32_from_bits((uint32_t)a));
}

static int64_t decoded(int64_t a, int64_t b)
{
    (void)b;
    return f32_bits(f32_from_bf16((bf16_t)a));
}

static int64_t added(int64_t a, int64_t b)
{
    return bf16_add((bf16_t)a, (bf16_t)b);
}

static int64_t multiplied(int64_t a, int64_t b)
{
    return bf16_multiply((bf16_t)a, (bf16_t)b);
}

static int64_t scaled(int64_t a, int64_t b)
{
    return bf16_from_scaled(narrow(a), narrow(b));
}

static int64_t requantized(int64_t a, int64_t b)
{
    return requantize(&rq, (uint32_t)b, narrow(a));
}

static const struct {
    const char *name;
    size_t operands;
    int has_bounds;
    int64_t (*apply)(int64_t a, int64_t b);
} functions[] = {
    {"shift_floor", 2, 0, floored},
    {"shift_half_up", 2, 0, half_up},
    {"shift_half_even", 2, 0, half_even},
    {"shift_saturate_int32", 2, 0, shifted},
    {"saturate", 1, 1, saturated},
    {"round_half_even_f32", 1, 1, rounded_f32},
    {"bf16_encode", 1, 0, encoded},
    {"bf16_decode", 1, 0, decoded},
    {"bf16_add", 2, 0, added},
    {"bf16_mul", 2, 0, multiplied},
    {"bf16_from_scaled", 2, 0, scaled},
    {"requantize_accumulators", 2, 0, requantized},
};

static void put(uint8_t *bytes, size_t size, int64_t value)
{
    size_t b;

    for (b = 0; b < size; b++) {
        bytes[b] = (uint8_t)((uint64_t)value >> 8 * b);
    }
}

/* A whole table, as a check of what was linked in */
static void whole_table(const json_t *step, const file_t *out, uint8_t *bytes)
{
    const char *name = json_string(constant(step, "name"), "text");
    uint32_t count = 0;
    const source_t table = shipped_table(name, &count);
    uint32_t i;

    if (table.data == 0 || count != out->count) {
        fail(2, "unknown table", name);
    }
    for (i = 0; i < count; i++) {
        put(bytes + i * out->size, out->size, load(table, i));
    }
}

static void element_by_element(const json_t *step, const char *name, const file_t *out, uint8_t *bytes)
{
    const json_t *item = json_member(step, "inputs", JSON_ARRAY)->first;
    file_t in[2];
    size_t f, i;

    for (f = 0; f < sizeof functions / sizeof functions[0] && strcmp(name, functions[f].name) != 0; f++) {
    }
    if (f == sizeof functions / sizeof functions[0]) {
        fail(2, "unsupported function", name);
    }
    for (i = 0; i < functions[f].operands; i++, item = item->next) {
        if (item == 0) {
            fail(1, "an operand is missing", name);
        }
        in[i] = load_file(json_string(item, "tensor"));
        if (in[i].count != out->count) {
            fail(1, "not as many elements as the output", name);
        }
    }
    if (functions[f].has_bounds) {
        lowest = constant_integer(step, "lowest");
        highest = constant_integer(step, "highest");
    }
    if (functions[f].apply == requantized) {
        rq = read_requantizer(step, 0);
    }
    for (i = 0; i < out->count; i++) {
        const int64_t second = functions[f].operands > 1 ? element(&in[1], i) : 0;

        put(bytes + i * out->size, out->size, functions[f].apply(element(&in[0], i), second));
    }
}

void run_function(const json_t *step)
{
    const char *name = json_string(step, "operator");
    const json_t *outputs = json_member(step, "outputs", JSON_ARRAY)->first;
    file_t out;
    uint8_t *bytes;

    if (outputs == 0 || outputs->type != JSON_STRING) {
        fail(1, "a step without output", name);
    }
    out = describe(outputs->string);
    bytes = allocate(out.count, out.size);
    if (strcmp(name, "shipped_table") == 0) {
        whole_table(step, &out, bytes);
    } else {
        element_by_element(step, name, &out, bytes);
    }
    write_words(outputs->string, bytes, out.count, out.size, 0);
}
