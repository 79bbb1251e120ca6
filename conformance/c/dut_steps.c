/*
 * Cases of steps: operators, layers, blocks, a network's frames. The case becomes a network_t of its own.
 * Weights in float must be BF16 values; constants must fit the widths that this port keeps them in.
 */
#include <string.h>

#include "dut.h"
#include "tables.h"

static const struct {
    const char *name;
    operator_t op;
} operators[] = {
    {"stft", OPERATOR_STFT},
    {"block_to_bf16", OPERATOR_BLOCK_TO_BF16},
    {"block_to_code", OPERATOR_BLOCK_TO_CODE},
    {"conv_causal", OPERATOR_CONV_CAUSAL},
    {"conv_causal_bf16", OPERATOR_CONV_CAUSAL_BF16},
    {"quantize_bf16", OPERATOR_QUANTIZE_BF16},
    {"dequantize_bf16", OPERATOR_DEQUANTIZE_BF16},
    {"requantize_codes", OPERATOR_REQUANTIZE_CODES},
    {"conv_strided", OPERATOR_CONV_STRIDED},
    {"conv_strided_transposed", OPERATOR_CONV_STRIDED_TRANSPOSED},
    {"fully_connected_frequency", OPERATOR_FULLY_CONNECTED_FREQUENCY},
    {"fully_connected_channels", OPERATOR_FULLY_CONNECTED_CHANNELS},
    {"add_two_stage", OPERATOR_ADD_TWO_STAGE},
    {"add_joint", OPERATOR_ADD_JOINT},
    {"add_bf16", OPERATOR_ADD_BF16},
    {"multiply", OPERATOR_MULTIPLY},
    {"multiply_bf16", OPERATOR_MULTIPLY_BF16},
    {"lookup", OPERATOR_LOOKUP},
    {"conv_transposed_causal", OPERATOR_CONV_TRANSPOSED_CAUSAL},
    {"conv_transposed_causal_bf16", OPERATOR_CONV_TRANSPOSED_CAUSAL_BF16},
    {"bf16_to_block", OPERATOR_BF16_TO_BLOCK},
    {"code_to_block", OPERATOR_CODE_TO_BLOCK},
    {"istft", OPERATOR_ISTFT},
    {"overlap_add", OPERATOR_OVERLAP_ADD},
    {"to_pcm", OPERATOR_TO_PCM},
};

static const struct {
    const char *name;
    source_t table;
    uint32_t count;
} tables[] = {
    {"sigmoid_bf16", {sigmoid_bf16, FORMAT_BF16}, 65536},
    {"tanh_bf16", {tanh_bf16, FORMAT_BF16}, 65536},
    {"hann_q30", {hann_q30, FORMAT_INT32}, REFIMPL_FRAME},
    {"twiddle_q30", {twiddle_q30, FORMAT_INT32}, 2 * REFIMPL_BINS},
};

source_t shipped_table(const char *name, uint32_t *count)
{
    source_t none = {0, FORMAT_INT8};
    size_t i;

    for (i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        if (strcmp(name, tables[i].name) == 0) {
            *count = tables[i].count;
            return tables[i].table;
        }
    }
    return none;
}

/* ---- tensors of the case ------------------------------------------------------------------------------- */

static int find_format(const char *name, format_t *format)
{
    static const char *const names[] = {"int8", "int16", "int32", "bf16"};
    uint32_t i;

    for (i = 0; i < 4; i++) {
        if (strcmp(name, names[i]) == 0) {
            *format = (format_t)i;
            return 1;
        }
    }
    return 0;
}

/* The network that the case is: tensors in the order in which the steps name them */
static tensor_t *network_tensors;
static uint16_t tensor_count;

static tensor_t *find_tensor(const char *name)
{
    uint16_t i;
    const json_t *entry, *dimension;
    tensor_t *tensor;

    for (i = 0; i < tensor_count; i++) {
        if (strcmp(network_tensors[i].name, name) == 0) {
            return &network_tensors[i];
        }
    }
    tensor = &network_tensors[tensor_count++];
    entry = json_find(current_case.tensors, name);
    if (entry == 0) {
        entry = json_member(current_case.tensors, join(name, ".past"), JSON_OBJECT);
    }
    tensor->name = name;
    if (!find_format(json_string(entry, "format"), &tensor->format)) {
        fail(2, "unsupported format", name);
    }
    dimension = json_member(entry, "shape", JSON_ARRAY)->first;
    for (i = 0; i < 3; i++) {
        dimension = dimension != 0 ? dimension->next : 0;       /* the first is time */
        if (dimension != 0 && (dimension->integer < 1 || dimension->integer > UINT16_MAX)) {
            fail(2, "unsupported shape", name);
        }
        tensor->shape[i] = dimension != 0 ? (uint16_t)dimension->integer : 1;
    }
    if (dimension != 0 && dimension->next != 0) {
        fail(2, "more than three dimensions in a frame", name);
    }
    entry = json_find(entry, "zero_point");
    tensor->start = entry != 0 ? (int16_t)entry->integer : 0;
    return tensor;
}

/* ---- constants ----------------------------------------------------------------------------------------- */

/*
 * A constant tensor of `count` elements (0: of any number) as words of `size` bytes, signed or not. Another
 * number of elements, or a value that does not fit, ends the program.
 */
static void *narrowed(const char *name, size_t size, int is_signed, size_t count)
{
    const file_t file = load_file(name);
    const int64_t limit = (int64_t)1 << (8 * size - (is_signed != 0));
    uint8_t *out = allocate(file.count, size);
    size_t i, b;

    if (count != 0 && count != file.count) {
        fail(1, "not as many constants as the layer has", name);
    }
    for (i = 0; i < file.count; i++) {
        const int64_t value = element(&file, i);

        if (value >= limit || value < (is_signed ? -limit : 0)) {
            fail(2, "a value is wider than this port keeps it", name);
        }
        for (b = 0; b < size; b++) {
            out[i * size + b] = (uint8_t)((uint64_t)value >> 8 * b);
        }
    }
    return out;
}

static const char *constant_tensor(const json_t *step, const char *name)
{
    return json_string(constant(step, name), "tensor");
}

/* FP32 values of a BF16 layer, as patterns */
static const bf16_t *bf16_values(const json_t *step, const char *name, size_t count)
{
    const file_t file = load_file(constant_tensor(step, name));
    bf16_t *out = allocate(file.count, sizeof *out);
    size_t i;

    if (count != file.count) {
        fail(1, "not as many constants as the layer has", name);
    }
    for (i = 0; i < file.count; i++) {
        const uint64_t value = (uint64_t)element(&file, i);

        if (file.size == 4 && (value & 0xFFFF) != 0) {
            fail(2, "not a BF16 value", name);
        }
        out[i] = (bf16_t)(file.size == 4 ? value >> 16 : value);
    }
    return out;
}

/* A shipped table or one of the case's own */
static source_t table(const json_t *step, const char *name, uint32_t *count)
{
    const json_t *item = constant(step, name);
    source_t result = {0, FORMAT_INT8};
    file_t file;

    if (json_find(item, "table") != 0) {
        result = shipped_table(json_string(item, "table"), count);
        if (result.data == 0) {
            fail(2, "unknown table", json_string(item, "table"));
        }
        return result;
    }
    file = load_file(json_string(item, "tensor"));
    if (!find_format(file.format, &result.format)) {
        fail(2, "unsupported format", name);
    }
    *count = (uint32_t)file.count;
    result.data = memcpy(allocate(file.count, file.size), file.data, file.count * file.size);
    return result;
}

/* A table of int32 */
static const int32_t *words(const json_t *step, const char *name, uint32_t wanted)
{
    uint32_t count;
    const source_t found = table(step, name, &count);

    if (found.format != FORMAT_INT32 || count != wanted) {
        fail(1, "not a table of this many int32", name);
    }
    return found.data;
}

requantizer_t read_requantizer(const json_t *step, size_t channels)
{
    static const struct {
        const char *name;
        law_t law;
    } laws[] = {{"folded", LAW_FOLDED}, {"norm_twice", LAW_NORM_TWICE}, {"bf16", LAW_BF16}, {"raw", LAW_RAW}};
    const json_t *item = json_member(constant(step, "rq"), "requantizer", JSON_OBJECT);
    const char *law = json_string(item, "law");
    requantizer_t rq;
    size_t i;

    memset(&rq, 0, sizeof rq);
    for (i = 0; i < 4 && strcmp(law, laws[i].name) != 0; i++) {
    }
    if (i == 4) {
        fail(2, "unknown law", law);
    }
    rq.law = laws[i].law;
    rq.pre_shift = (uint8_t)json_integer(item, "pre_shift");
    rq.lowest = (int32_t)json_integer(item, "lowest");
    rq.highest = (int32_t)json_integer(item, "highest");
    rq.offset = (int32_t)json_integer(item, "offset");
    if (rq.law != LAW_FOLDED) {
        rq.bias = narrowed(json_string(item, "bias"), 4, 1, channels);
    }
    if (rq.law == LAW_FOLDED || rq.law == LAW_NORM_TWICE) {
        rq.multiplier = narrowed(json_string(item, "multiplier"), 1, 0, channels);
        rq.shift = narrowed(json_string(item, "shift"), 1, 0, channels);
    }
    if (rq.law == LAW_FOLDED) {
        rq.addend = narrowed(json_string(item, "addend"), 4, 1, channels);
    }
    if (rq.law == LAW_BF16) {
        rq.scale = narrowed(json_string(item, "scale"), 4, 1, channels);
    }
    return rq;
}

/* Weights [outputs, inputs] of L-1 to input-major */
static const int8_t *transposed(const int8_t *weight, size_t outputs, size_t inputs)
{
    int8_t *out = allocate(outputs, inputs);
    size_t o, n;

    for (o = 0; o < outputs; o++) {
        for (n = 0; n < inputs; n++) {
            out[n * outputs + o] = weight[o * inputs + n];
        }
    }
    return out;
}

/* The first dimension of the weight: the taps of a strided convolution */
static uint32_t first_dimension(const char *name)
{
    const json_t *shape = json_member(describe(name).entry, "shape", JSON_ARRAY);

    return shape->first != 0 ? (uint32_t)shape->first->integer : 0;
}

static const void *layer(const json_t *step, operator_t op, const uint16_t *in, const uint16_t *out)
{
    layer_t *c = allocate(1, sizeof *c);
    const char *weight = constant_tensor(step, "weight");
    const int strided = op == OPERATOR_CONV_STRIDED || op == OPERATOR_CONV_STRIDED_TRANSPOSED;
    const int causal = op == OPERATOR_CONV_CAUSAL || op == OPERATOR_CONV_TRANSPOSED_CAUSAL;
    const int frequency = op == OPERATOR_FULLY_CONNECTED_FREQUENCY;
    const size_t outputs = frequency ? out[0] : out[1];
    const size_t taps = strided ? first_dimension(weight) : causal ? 9 : 1;
    const size_t inputs = taps * (frequency ? in[0] : in[1]);

    if (strided && (taps < 1 || taps > 255 || (size_t)(op == OPERATOR_CONV_STRIDED ? out[0] : in[0]) * taps
                    > (size_t)(op == OPERATOR_CONV_STRIDED ? in[0] : out[0]))) {
        fail(1, "taps and bins do not fit", weight);
    }
    if ((frequency && in[1] != out[1]) || (!frequency && !strided && in[0] != out[0])) {
        fail(1, "input and output do not fit", weight);
    }
    if (inputs > REFIMPL_MAX_INPUTS) {
        fail(2, "a layer larger than REFIMPL_MAX_INPUTS", weight);
    }
    c->stride = (uint8_t)(strided ? taps : 0);
    c->weight = narrowed(weight, 1, 1, inputs * outputs);
    c->rq = read_requantizer(step, op == OPERATOR_CONV_STRIDED_TRANSPOSED ? taps * outputs : outputs);
    if (frequency) {
        c->weight = transposed(c->weight, outputs, inputs);
    } else if (causal || op == OPERATOR_CONV_STRIDED_TRANSPOSED) {
        c->padding = (int16_t)constant_integer(step, "padding");
    }
    if (causal) {
        c->below = (uint8_t)constant_integer(step, "below");
    }
    return c;
}

static const void *layer_bf16(const json_t *step, const uint16_t *in, const uint16_t *out)
{
    layer_bf16_t *c = allocate(1, sizeof *c);

    if (in[0] != out[0]) {
        fail(1, "input and output do not fit", constant_tensor(step, "weight"));
    }
    if (out[1] > REFIMPL_MAX_OUTPUTS) {
        fail(2, "a layer larger than REFIMPL_MAX_OUTPUTS", constant_tensor(step, "weight"));
    }
    c->weight = bf16_values(step, "weight", (size_t)9 * in[1] * out[1]);
    c->bias = bf16_values(step, "bias", out[1]);
    c->below = (uint8_t)constant_integer(step, "below");
    return c;
}

/* Structures of integers only: their fields in order */
static const void *integers(const json_t *step, const char *const *names, size_t count)
{
    int32_t *c = allocate(count, sizeof *c);
    size_t i;

    for (i = 0; i < count; i++) {
        c[i] = constant_integer(step, names[i]);
    }
    return c;
}

#define INTEGERS(...) \
    do { \
        static const char *const names[] = {__VA_ARGS__}; \
        return integers(step, names, sizeof names / sizeof names[0]); \
    } while (0)

static const void *constants(const json_t *step, const step_t *known)
{
    const operator_t op = known->op;
    const uint16_t *in = known->input[0]->shape;
    const uint16_t *out = known->output[0]->shape;

    switch (op) {
    case OPERATOR_FULLY_CONNECTED_FREQUENCY:
    case OPERATOR_FULLY_CONNECTED_CHANNELS:
    case OPERATOR_CONV_CAUSAL:
    case OPERATOR_CONV_TRANSPOSED_CAUSAL:
    case OPERATOR_CONV_STRIDED:
    case OPERATOR_CONV_STRIDED_TRANSPOSED:
        return layer(step, op, in, out);
    case OPERATOR_CONV_CAUSAL_BF16:
    case OPERATOR_CONV_TRANSPOSED_CAUSAL_BF16:
        return layer_bf16(step, in, out);
    case OPERATOR_ADD_TWO_STAGE:
        INTEGERS("ma", "na", "mo", "no", "add_bias");
    case OPERATOR_ADD_JOINT:
        INTEGERS("za", "zb", "ma", "mb", "n", "zero_point", "lowest", "highest");
    case OPERATOR_MULTIPLY:
        INTEGERS("za", "zb", "m", "n", "zero_point", "lowest", "highest");
    case OPERATOR_REQUANTIZE_CODES:
        INTEGERS("in_zero", "m", "n", "zero_point", "lowest", "highest");
    case OPERATOR_BLOCK_TO_CODE:
        INTEGERS("m", "n", "zero_point", "lowest", "highest");
    case OPERATOR_QUANTIZE_BF16: {
        quantize_bf16_t *c = allocate(1, sizeof *c);

        c->inverse_scale = constant_f32(step, "inverse_scale");
        c->zero_point = constant_integer(step, "zero_point");
        c->lowest = constant_integer(step, "lowest");
        c->highest = constant_integer(step, "highest");
        return c;
    }
    case OPERATOR_DEQUANTIZE_BF16: {
        dequantize_bf16_t *c = allocate(1, sizeof *c);

        c->scale = constant_f32(step, "scale");
        c->zero_point = constant_integer(step, "zero_point");
        return c;
    }
    case OPERATOR_LOOKUP: {
        lookup_t *c = allocate(1, sizeof *c);
        const format_t format = known->input[0]->format;
        uint32_t count;

        c->table = table(step, "table", &count);
        c->first = constant_integer(step, "first");
        if (count != (format == FORMAT_INT8 ? 256u : 65536u)
            || c->first != (format == FORMAT_INT8 ? INT8_MIN : format == FORMAT_INT16 ? INT16_MIN : 0)) {
            fail(1, "a table of another size than the input's codes", "table");
        }
        c->start = (uint32_t)constant_integer(step, "start");
        if (c->start > in[1] || out[1] > in[1] - c->start) {
            fail(1, "channels beyond the input's", "start");
        }
        return c;
    }
    case OPERATOR_STFT: {
        stft_t *c = allocate(1, sizeof *c);

        c->window = words(step, "window", REFIMPL_FRAME);
        c->twiddle = words(step, "twiddle", 2 * REFIMPL_BINS);
        return c;
    }
    case OPERATOR_ISTFT: {
        istft_t *c = allocate(1, sizeof *c);

        c->window = words(step, "window", REFIMPL_SYNTHESIS);
        c->twiddle = words(step, "twiddle", 2 * REFIMPL_BINS);
        c->base_shift = constant_integer(step, "base_shift");
        return c;
    }
    case OPERATOR_BF16_TO_BLOCK:
    case OPERATOR_CODE_TO_BLOCK: {
        to_block_t *c = allocate(1, sizeof *c);

        c->re = narrowed(constant_tensor(step, "re"), 1, 0, out[0]);
        c->im = narrowed(constant_tensor(step, "im"), 1, 0, out[0]);
        if (op == OPERATOR_CODE_TO_BLOCK) {
            c->zero_point = constant_integer(step, "zero_point");
            c->shift = constant_integer(step, "shift");
        }
        return c;
    }
    default:
        return 0;
    }
}

/* ---- running the case ---------------------------------------------------------------------------------- */

static operator_t find_operator(const char *name)
{
    size_t i;

    for (i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        if (strcmp(operators[i].name, name) == 0) {
            return operators[i].op;
        }
    }
    fail(2, "unsupported operator", name);
    return OPERATOR_STFT;
}

/* Operators of fixed sizes, and those that go element by element, read no further than their inputs */
static void check_shapes(const step_t *step)
{
    const uint32_t elements = tensor_elements(step->output[0]);
    const uint32_t first = tensor_elements(step->input[0]);
    const uint32_t second = step->input[1] != 0 ? tensor_elements(step->input[1]) : 0;
    const uint16_t *in = step->input[0]->shape;
    const uint16_t *out = step->output[0]->shape;
    int fits = 1;

    switch (step->op) {
    case OPERATOR_STFT:
        fits = first == REFIMPL_FRAME && elements == 2 * REFIMPL_BINS && step->output[1] != 0;
        break;
    case OPERATOR_ISTFT:
        fits = in[1] == REFIMPL_BINS && in[2] == 2 && second == in[0] && step->output[1] != 0
            && elements == in[0] * (uint32_t)REFIMPL_HOP
            && tensor_elements(step->output[1]) == in[0] * (uint32_t)REFIMPL_TAIL;
        break;
    case OPERATOR_OVERLAP_ADD:
        fits = in[1] == REFIMPL_HOP && elements == first && second == in[0] * (uint32_t)REFIMPL_TAIL;
        break;
    case OPERATOR_TO_PCM:
        fits = elements == first && step->output[1] != 0 && tensor_elements(step->output[1]) == in[0];
        break;
    case OPERATOR_BF16_TO_BLOCK:
    case OPERATOR_CODE_TO_BLOCK:
        fits = out[1] == in[0] && out[2] == 2 && step->output[1] != 0
            && tensor_elements(step->output[1]) == out[0];
        break;
    case OPERATOR_LOOKUP:
        fits = in[0] == out[0] && out[1] <= in[1];
        break;
    case OPERATOR_BLOCK_TO_BF16:
    case OPERATOR_BLOCK_TO_CODE:
        fits = elements == first && second == 1;
        break;
    case OPERATOR_ADD_TWO_STAGE:
    case OPERATOR_ADD_JOINT:
    case OPERATOR_ADD_BF16:
    case OPERATOR_MULTIPLY:
    case OPERATOR_MULTIPLY_BF16:
        fits = elements == first && elements == second;
        break;
    case OPERATOR_QUANTIZE_BF16:
    case OPERATOR_DEQUANTIZE_BF16:
    case OPERATOR_REQUANTIZE_CODES:
        fits = elements == first;
        break;
    default:                                                /* layers check their weights */
        break;
    }
    if (!fits) {
        fail(1, "inputs and outputs of the step do not fit", step->output[0]->name);
    }
}

static void read_step(const json_t *item, step_t *step)
{
    const json_t *operand;
    uint32_t i = 0;

    step->op = find_operator(json_string(item, "operator"));
    operand = json_member(item, "inputs", JSON_ARRAY)->first;
    for (; operand != 0 && i < 2; operand = operand->next) {
        tensor_t *tensor = find_tensor(json_string(operand, "tensor"));

        step->past[i] = (uint8_t)json_integer(operand, "past");
        tensor->past = tensor->past < step->past[i] ? step->past[i] : tensor->past;
        step->input[i++] = tensor;
    }
    i = 0;
    operand = json_member(item, "outputs", JSON_ARRAY)->first;
    for (; operand != 0 && i < 2; operand = operand->next) {
        step->output[i++] = find_tensor(operand->string);
    }
    if (step->input[0] == 0 || step->output[0] == 0) {
        fail(1, "a step without input or output", json_string(item, "name"));
    }
    check_shapes(step);
    step->constants = constants(item, step);
}

/* Buffers, and the state before the first frame given: NAME.past where the case has it */
static void read_state(const network_t *network)
{
    uint16_t i;

    for (i = 0; i < tensor_count; i++) {
        network_tensors[i].frames = allocate(network_tensors[i].past + 1u, tensor_bytes(&network_tensors[i]));
    }
    network_reset(network);
    for (i = 0; i < tensor_count; i++) {
        const tensor_t *tensor = &network_tensors[i];
        const char *name = join(tensor->name, ".past");
        const size_t bytes = (size_t)tensor->past * tensor_bytes(tensor);

        if (tensor->past > 0 && json_find(current_case.tensors, name) != 0) {
            const file_t file = load_file(name);
            const size_t given = file.count * file.size;

            if (given < bytes) {
                fail(1, "too few past frames", name);
            }
            memcpy(tensor->frames, file.data + given - bytes, bytes);
        }
    }
}

/* Frames of the case: the first dimension of what a step reads or writes */
static uint32_t count_frames(void)
{
    uint32_t frames = 0;
    uint16_t i;
    int known = 0;

    for (i = 0; i < tensor_count; i++) {
        const tensor_t *tensor = &network_tensors[i];

        if (json_find(current_case.tensors, tensor->name) != 0) {
            const size_t elements = describe(tensor->name).count;

            if (!known) {
                frames = (uint32_t)(elements / tensor_elements(tensor));
                known = 1;
            }
            if (elements != (size_t)frames * tensor_elements(tensor)) {
                fail(1, "not one value per frame", tensor->name);
            }
        }
    }
    return frames;
}

/* Every tensor that the case expects, frame by frame behind each other; null for the others */
static uint8_t **output_buffers(uint32_t frames)
{
    uint8_t **outputs = allocate(tensor_count, sizeof *outputs);
    uint16_t i;

    for (i = 0; i < tensor_count; i++) {
        const json_t *entry = json_find(current_case.tensors, network_tensors[i].name);

        if (entry != 0 && has_role(entry, "expected")) {
            outputs[i] = allocate(frames, tensor_bytes(&network_tensors[i]));
        }
    }
    return outputs;
}

static const uint8_t **input_data(void)
{
    const uint8_t **inputs = allocate(tensor_count, sizeof *inputs);
    uint16_t i;

    for (i = 0; i < tensor_count; i++) {
        const json_t *entry = json_find(current_case.tensors, network_tensors[i].name);

        if (entry != 0 && has_role(entry, "input")) {
            inputs[i] = load_file(network_tensors[i].name).data;
        }
    }
    return inputs;
}

/* The expected tensors, and the state after the last frame */
static void write_outputs(uint8_t *const *outputs, uint32_t frames)
{
    uint16_t i;

    for (i = 0; i < tensor_count; i++) {
        const tensor_t *tensor = &network_tensors[i];
        const char *next = join(tensor->name, ".next");
        const json_t *entry = json_find(current_case.tensors, next);
        const uint32_t size = format_size(tensor->format);

        if (outputs[i] != 0) {
            write_words(tensor->name, outputs[i], (size_t)frames * tensor_elements(tensor), size, 0);
        }
        if (entry != 0 && has_role(entry, "next_state")) {
            write_words(next, tensor->frames, (size_t)tensor->past * tensor_elements(tensor), size, 0);
        }
    }
}

void run_steps(const json_t *list)
{
    static network_t network;
    const json_t *item;
    const uint8_t **inputs;
    uint8_t **outputs;
    step_t *steps = allocate(list->count, sizeof *steps);
    uint32_t frames, t;
    uint16_t i;

    network_tensors = allocate(4 * list->count, sizeof *network_tensors);
    for (item = list->first; item != 0; item = item->next) {
        read_step(item, &steps[network.step_count++]);
    }
    network.tensors = network_tensors;
    network.tensor_count = tensor_count;
    network.steps = steps;
    read_state(&network);
    frames = count_frames();
    inputs = input_data();
    outputs = output_buffers(frames);
    for (t = 0; t < frames; t++) {
        for (i = 0; i < tensor_count; i++) {
            const size_t bytes = tensor_bytes(&network_tensors[i]);

            if (inputs[i] != 0) {
                memcpy(tensor_frame(&network_tensors[i], 0), inputs[i] + t * bytes, bytes);
            }
        }
        network_run(&network, 0, 0);
        for (i = 0; i < tensor_count; i++) {
            const size_t bytes = tensor_bytes(&network_tensors[i]);

            if (outputs[i] != 0) {
                memcpy(outputs[i] + t * bytes, tensor_frame(&network_tensors[i], 0), bytes);
            }
        }
        network_advance(&network);
    }
    write_outputs(outputs, frames);
}
