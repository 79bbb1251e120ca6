"""Mutants above the operators: program, state, wiring, network, presets, streams, containers (P, M, W)."""

from __future__ import annotations

from functools import partial

from golden_vectors.mutants.definition import Mutant

_program = partial(Mutant, "program.py")
_network = partial(Mutant, "networks/tf_mlpnet.py")
_lowering = partial(Mutant, "quantization/lowering.py")
_session = partial(Mutant, "session.py")
_container = partial(Mutant, "weights_io.py")
_preset = partial(Mutant, "presets/__init__.py")

PAST = "start = held + first - ref.past"
HELD = "buffer[:past] = state[name]"
NEXT = "state[name] = buffers[name][-self.past[name] :].copy()"
FRAMES = """\
        for t in range(count):
            for step, kernel in zip(steps, kernels, strict=True):
                kernel(*self._arguments(step, buffers, t, 1))"""
READ = "            held = self.past.get(ref.tensor, 0)\n            start"
CONSTANTS = "arguments.extend(step.constants)"


def _wired(*changes: tuple[str, str, str]) -> str:
    """A step whose name ends with the first text reads, where it read a tensor that ends with the second, the third."""
    return (
        f"            for end, right, wrong in {changes!r}:\n"
        "                name = ref.tensor.removesuffix(right) + wrong\n"
        "                if step.name.endswith(end) and ref.tensor.endswith(right) and name in buffers:\n"
        "                    ref = Ref(name, ref.past, ref.current)\n"
        "                    break\n"
    ) + READ


def _gates(**places: int) -> str:
    """The gates named read the channels of another place."""
    return (
        "constants, gate = list(step.constants), step.name.rpartition('.lstm.')[2]\n"
        f"        if gate in {places!r}:\n"
        f"            constants[-1] = {places!r}[gate] * self.tensors[step.outputs[0]].shape[1]\n"
        "        arguments.extend(constants)"
    )


STATE = (
    _program("past-is-current", "P-1", "operators", "a step that reads the frame before reads the current one", PAST,
             PAST + " + (not ref.current)", flags=("frame_off_by_one", "stale_state")),
    _program("past-taps-late", "P-1", "operators", "a convolution reads one frame too early, the first one twice", PAST,
             "start = max(held + first - ref.past - (ref.past == 2 and first > 0), 0)",
             equivalent="no convolution is part of a recurrence, so it is only ever called for frames from the first on"),
    _program("state-ignored", "P-3", "operators", "every call starts from the start value", HELD,
             "buffer[:past] = tensor.start", flags=("stale_state", "start_state")),
    _program("state-swapped", "P-3", "operators", "the two past frames change places", HELD, HELD + "[::-1]",
             flags=("swapped_state",)),
    _program("state-newest-twice", "P-3", "operators", "both past frames are the newer one", HELD, HELD + "[-1:]",
             flags=("swapped_state", "stale_state")),
    _program("recurrence-at-once", "P-1", "lstm", "each step of the recurrence runs over all frames before the next step",
             FRAMES,
             "        for step, kernel in zip(steps, kernels, strict=True):\n"
             "            for name in step.outputs:\n"
             "                buffers[name][self.past.get(name, 0) :] = self.tensors[name].start\n"
             "        for step, kernel in zip(steps, kernels, strict=True):\n"
             "            for t in range(count):\n"
             "                kernel(*self._arguments(step, buffers, t, 1))", flags=("stale_state",)),
    _program("recurrence-state-kept", "P-3", "lstm", "the recurrence reads the state of the call's start in every frame", PAST,
             "start = held + (0 if step.loop and not ref.current else first) - ref.past", flags=("stale_state",)),
    _program("recurrence-hidden-kept", "M-6", "lstm", "the hidden state is not advanced, the cell is", PAST,
             "start = held + (0 if step.name.endswith('.hh') and not ref.current else first) - ref.past",
             flags=("stale_state",)),
    _program("recurrence-cell-kept", "M-6", "lstm", "the cell is not advanced, the hidden state is", PAST,
             "start = held + (0 if step.name.endswith('.fc') and not ref.current else first) - ref.past",
             flags=("stale_state",)),
    _program("next-state-not-advanced", "P-3", "lstm", "the state that comes out is the one that went in", NEXT,
             "state[name] = buffers[name][: self.past[name]].copy()", flags=("stale_state",)),
    _program("next-state-first-frame", "P-3", "lstm", "the state that comes out is that of the first frame", NEXT,
             "state[name] = buffers[name][self.past[name] :][: self.past[name]].copy()", flags=("stale_state",)),
    _program("next-state-not-conv", "P-3", "stream", "the past frames of the convolutions are not advanced", NEXT,
             "if self.past[name] < 2:\n                " + NEXT, flags=("stale_state",)),
    _program("next-state-swapped", "P-3", "stream", "the past frames of the convolutions come out in reverse", NEXT,
             NEXT.replace(".copy()", "[::-1].copy()"), flags=("swapped_state",)),
    _program("next-tail-not-kept", "P-3", "stream", "the tail of the last frame is not kept", NEXT,
             "if name != 'istft.tail':\n                " + NEXT, flags=("stale_state",)),
    _program("next-cell-not-kept", "P-3", "lstm", "the cell is not kept between calls", NEXT,
             "if not name.endswith('.c'):\n                " + NEXT, flags=("stale_state",)),
    _program("next-second-block-shared", "P-3", "stream", "the second block's state is overwritten by the first one's", NEXT,
             "state[name] = buffers[name.replace('block2.', 'block1.')][-self.past[name] :].copy()", flags=("stale_state",)),
    _program("start-zero-bits", "P-3", "network", "the state before the first frame is zero bits, not zero points",
             "return self.format.zero_point if self.format.is_code else 0", "return 0", flags=("start_state",)),
    _program("start-lowest-code", "P-3", "network", "the state before the first frame is the lowest code",
             "return self.format.zero_point if self.format.is_code else 0",
             "return self.format.lowest if self.format.is_code else 0", flags=("start_state",)),
)  # fmt: skip

WIRING = (
    _program("gates-i-o-f-g", "M-6", "lstm", "gates in the order i, o, f, g", CONSTANTS, _gates(o=1, f=2, g=3),
             flags=("gate_order",)),
    _program("gates-i-g-f-o", "M-6", "lstm", "gates in the order i, g, f, o", CONSTANTS, _gates(g=1, f=2),
             flags=("gate_order",)),
    _program("gates-f-i-g-o", "M-6", "lstm", "gates in the order f, i, g, o", CONSTANTS, _gates(f=0, i=1),
             flags=("gate_order",)),
    _program("gates-i-f-o-g", "M-6", "lstm", "gates in the order i, f, o, g", CONSTANTS, _gates(o=2, g=3),
             flags=("gate_order",)),
    _program("gates-o-last-missing", "M-6", "lstm", "the output gate reads the cell's candidate", CONSTANTS, _gates(o=2),
             flags=("gate_order",)),
    _program("cell-gates-swapped", "M-6", "lstm", "the input gate weighs the cell, the forget gate the candidate", READ,
             _wired((".fc", ".f", ".i"), (".ig", ".i", ".f")), flags=("gate_order",)),
    _program("cell-candidate-ungated", "M-6", "lstm", "the candidate is added to the cell without its gate", READ,
             _wired((".lstm.c", ".ig", ".g"))),
    _program("cell-old-forgotten", "M-6", "lstm", "the gated candidate is added to itself, not to the cell", READ,
             _wired((".lstm.c", ".fc", ".ig"))),
    _program("cell-without-tanh", "M-6", "lstm", "the output gate weighs the cell without its tanh", READ,
             _wired((".lstm.h", ".tanh_c", ".c"))),
    _program("hidden-of-candidate", "M-6", "lstm", "the output gate weighs the candidate", READ,
             _wired((".lstm.h", ".tanh_c", ".g"))),
    _program("hidden-gate-wrong", "M-6", "lstm", "the forget gate weighs the output", READ, _wired((".lstm.h", ".o", ".f")),
             flags=("gate_order",)),
    _program("tanh-of-candidate", "M-6", "lstm", "tanh is taken of the gated candidate alone", READ,
             _wired((".tanh_c", ".c", ".ig"))),
    _program("sum-of-input-only", "M-6", "lstm", "the recurrent layer is left out, the input layer counted twice", READ,
             _wired((".sum", ".hh", ".ih"))),
    _program("sum-of-hidden-only", "M-6", "lstm", "the input layer is left out, the recurrent layer counted twice", READ,
             _wired((".sum", ".ih", ".hh"))),
    _program("state-of-cell", "M-7", "lstm", "the quantized state is that of tanh(c), not of h", READ,
             _wired((".lstm.state", ".h", ".tanh_c"))),
    _program("one-sigmoid-table", "M-8", "lstm", "the input gate's table serves the forget gate too", CONSTANTS,
             "same = {s.name: s.constants for s in self.steps}\n"
             "        wrong = same.get(step.name[:-2] + '.i', ()) if step.name.endswith('.f') else ()\n"
             "        arguments.extend((*wrong[:1], *step.constants[1:]) if len(wrong) == 3 else step.constants)"),
    _program("one-product-scale", "M-8", "lstm", "the two products of the cell share one multiplier and zero point", CONSTANTS,
             "same = {s.name: s.constants for s in self.steps}\n"
             "        arguments.extend(same.get(step.name.replace('.lstm.ig', '.lstm.fc'), step.constants))"),
    _program("mixer-residual-hidden", "M-5", "layers", "the residual adds the mixer's first layer", READ,
             _wired((".freq_add", ".freq2", ".freq1"), (".chan_add", ".chan2", ".chan1"))),
    _program("mixer-input-hidden", "M-5", "layers", "the mixer's second layer is added to its first", READ,
             _wired((".freq2", ".freq1", ".freq1"), (".chan_add", ".freq_add", ".chan1")), flags=("residual_order",)),
    _program("mixer-second-layer-skips", "M-5", "layers", "the mixer's second layer along channels reads the mixer's input",
             READ,
             _wired((".chan2", ".chan1", ".freq_add"))),
    _program("second-mixer-reads-frequency", "M-5", "block", "the second mixer reads the first one before its channels", READ,
             _wired((".mixer2.freq1", ".mixer1.chan_add", ".mixer1.freq_add"),
                    (".mixer2.freq_add", ".mixer1.chan_add", ".mixer1.freq_add"))),
    _program("second-mixer-residual", "M-5", "block", "the second mixer's residual is the first one before its channels", READ,
             _wired((".mixer2.freq_add", ".mixer1.chan_add", ".mixer1.freq_add")), flags=("residual_order",)),
    _program("intra-of-first-mixer", "M-5", "block", "intra_linear reads the first mixer", READ,
             _wired((".intra_linear", ".mixer2.chan_add", ".mixer1.chan_add"))),
    _program("spectral-residual-expanded", "M-5", "block", "the spectral stage adds its own output to itself", READ,
             _wired((".spectral_add", "encoder.out", "block1.spectral.expand"),
                    (".spectral_add", "encoder", "block1.spectral.expand"))),
    _program("lstm-skips-residual", "M-5", "block", "the LSTM reads the spectral stage before its residual", READ,
             _wired((".lstm.ih", "_add", ".expand"))),
    _program("temporal-residual", "M-6", "block", "the temporal stage's residual is the spectral stage before its own", READ,
             _wired((".out", ".spectral_add", ".spectral.expand")), flags=("residual_order",)),
    _program("block-input-stale", "M-4", "frame", "the second block reads the first one before its temporal stage", READ,
             _wired(("block2.spectral.in", "block1.out", "block1.spectral_add"),
                    ("block2.spectral.compress", "block1.out", "block1.spectral_add"),
                    ("block2.spectral_add", "block1.out", "block1.spectral_add"))),
    _program("block-residual-stale", "M-5", "frame", "the second block's residual is the first one before its temporal stage",
             READ,
             _wired(("block2.spectral_add", "block1.out", "block1.spectral_add"))),
    _program("decoder-reads-first-block", "M-3", "frame", "the decoder reads the first block", READ,
             _wired(("decoder.in", "block2.out", "block1.out"))),
    _program("decoder-reads-unfinished", "M-3", "frame", "the decoder reads the last block before its temporal stage", READ,
             _wired(("decoder.in", "block2.out", "block2.spectral_add"))),
    _program("second-block-first-weights", "M-2", "frame", "the second block runs with the first one's constants", CONSTANTS,
             "same = {s.name: s.constants for s in self.steps}\n"
             "        constants = same.get(step.name.replace('block2.', 'block1.'), step.constants)\n"
             "        arguments.extend(constants if len(constants) == len(step.constants) else step.constants)"),
    _program("second-mixer-first-weights", "M-2", "block", "the second mixer runs with the first one's constants", CONSTANTS,
             "same = {s.name: s.constants for s in self.steps}\n"
             "        arguments.extend(same.get(step.name.replace('mixer2.', 'mixer1.'), step.constants))"),
)  # fmt: skip

NETWORK = (
    _network("padding-swapped", "M-1", "network", "symmetric and top padding change places",
             "below = 1 if config.frequency_padding", "below = 0 if config.frequency_padding"),
    _network("window-ignored", "M-1", "network", "the analysis window is always Hann", "b.stft(frame, config.window)",
             'b.stft(frame, "hann")', near="network/odd-fp32/*"),
    _network("synthesis-ignored", "M-1", "network", "the synthesis window is always that of Hann", "b.istft(y, config.window,",
             'b.istft(y, "hann",', near="network/odd-fp32/*"),
    _network("channel-order-swapped", "M-11", "network", "the two channel orders change places",
             'if config.channel_order == "speaker_major"', 'if config.channel_order != "speaker_major"',
             flags=("channel_order",)),
    _network("speakers-swapped", "M-11", "network", "speakers come out in reverse", "order[0].copy(), order[1].copy()",
             "order[0][::-1].copy(), order[1][::-1].copy()", flags=("channel_order",)),
    _network("parts-swapped", "M-11", "network", "real and imaginary parts change places", "order[0].copy(), order[1].copy()",
             "order[1].copy(), order[0].copy()", flags=("channel_order",)),
    _network("blocks-first-weights", "M-2", "network", "every block takes the first one's spectral weights",
             'key, name = f"blocks.{index}", f"block{index + 1}.spectral"',
             'key, name = "blocks.0", f"block{index + 1}.spectral"'),
    _network("mixers-first-weights", "M-2", "network", "every mixer takes the first one's weights", "{key}.mixers.{m}.{short}",
             "{key}.mixers.0.{short}"),
    _network("mixer-axes", "M-5", "network", "channels are mixed before frequencies",
             '(("frequency", "freq"), ("channels", "chan"))', '(("channels", "chan"), ("frequency", "freq"))'),
    _network("mixer-relu-missing", "M-5", "network", "the mixer's ReLU is missing", 'f"{source}1", axis, relu=True)',
             'f"{source}1", axis)'),
    _network("mixer-relu-twice", "M-5", "network", "the mixer's second layer has a ReLU too", 'f"{source}2", axis))',
             'f"{source}2", axis, relu=True))'),
    _network("mixer-residual", "M-5", "network", "the mixer's residual is its hidden layer", 'b.add(f"{layer}_add", y, b.',
             'b.add(f"{layer}_add", hidden, b.'),
    _network("spectral-residual", "M-5", "network", "the spectral stage's residual is missing: its output is added to itself",
             'b.add(f"block{index + 1}.spectral_add", x, y)', 'b.add(f"block{index + 1}.spectral_add", y, y)'),
    _network("compress-relu-missing", "M-9", "network", "the compression's ReLU is missing", 'f"{key}.compress", relu=True)',
             'f"{key}.compress", relu=False)'),
    _network("intra-relu", "M-5", "network", "intra_linear has a ReLU", 'f"{key}.intra_linear", "channels")',
             'f"{key}.intra_linear", "channels", relu=True)'),
    _network("network-gates-i-f-o-g", "M-6", "network", "gates in the order i, f, o, g",
             'total, TANH, 2 * hidden, hidden, loop=loop)\n    o = b.activation(f"{name}.o", total, SIGMOID, 3 * hidden',
             'total, TANH, 3 * hidden, hidden, loop=loop)\n    o = b.activation(f"{name}.o", total, SIGMOID, 2 * hidden'),
    _network("network-candidate-sigmoid", "M-6", "network", "the candidate is a sigmoid", "total, TANH, 2",
             "total, SIGMOID, 2"),
    _network("network-cell-sigmoid", "M-6", "network", "the cell's tanh is a sigmoid", "c, TANH, 0", "c, SIGMOID, 0"),
    _network("network-cell-gates", "M-6", "network", "input and forget gate change places in the cell's update",
             'b.multiply(f"{name}.fc", f, cell, past=1, loop=loop)\n    ig = b.multiply(f"{name}.ig", i, g',
             'b.multiply(f"{name}.fc", i, cell, past=1, loop=loop)\n    ig = b.multiply(f"{name}.ig", f, g'),
    _network("network-without-tanh", "M-6", "network", "the output gate weighs the cell without its tanh",
             'b.multiply(f"{name}.h", o, tanh_c', 'b.multiply(f"{name}.h", o, c'),
    _network("network-biases-swapped", "M-2", "network", "the two biases of the LSTM change places",
             'f"{key}.weight_ih_l0", "channels", bias_key=f"{key}.bias_ih_l0")',
             'f"{key}.weight_ih_l0", "channels", bias_key=f"{key}.bias_hh_l0")'),
    _network("network-weights-swapped", "M-2", "network", "the input layer takes the recurrent weights",
             'f"{key}.weight_ih_l0", "channels"', 'f"{key}.weight_hh_l0", "channels"'),
    _network("network-temporal-residual", "M-6", "network",
             "the temporal stage's residual is missing: its output is added to itself",
             'b.add(f"block{index + 1}.out", x, y)', 'b.add(f"block{index + 1}.out", y, y)'),
    _network("network-plain-decoder", "M-3", "network", "the decoder is a plain convolution with its weights' axes exchanged",
             'b.convert("decoder.in", x), "decoder", below, transposed=True)', 'b.convert("decoder.in", x), "decoder", below)'),
    _network("network-bins-ceil", "M-9", "network", "a last, unfinished group of bins is kept",
             "return BINS // self.compression",
             "return -(-BINS // self.compression)"),
    _lowering("origin-lost", "M-12", "network", "a converted tensor looks for a range of its own",
              "self.origin[name] = origin or name",
              "self.origin[name] = name"),
    _lowering("ranges-of-8-bits", "M-12", "network", "16-bit tensors take the 8-bit range",
              "table = self.ranges.get(form.bits, {})", "table = self.ranges.get(8, {})",
              near="network/small-mixmlp/one-sample"),
    _lowering("conv-kernel-transposed", "M-2", "network", "time and frequency taps of the encoder change places",
              "else weight.transpose(2, 3, 1, 0)", "else weight.transpose(3, 2, 1, 0)"),
    _lowering("deconv-kernel-transposed", "M-2", "network", "time and frequency taps of the decoder change places",
              "weight.transpose(2, 3, 0, 1) if transposed", "weight.transpose(3, 2, 0, 1) if transposed"),
    _lowering("compress-transposed", "M-2", "network", "inputs and outputs of the compression change places",
              "weight = weight.transpose(2, 1, 0)", "weight = weight.transpose(2, 0, 1)"),
    _lowering("expand-transposed", "M-2", "network", "inputs and outputs of the expansion change places",
              "weight = weight.transpose(2, 0, 1)", "weight = weight.transpose(2, 1, 0)"),
    _lowering("expand-scales-repeated", "C-8", "network", "the expansion's scales run over taps inside",
              "np.tile(scales, taps)",
              "np.repeat(scales, taps)"),
    _lowering("expand-bias-repeated", "C-8", "network", "the expansion's biases run over taps inside", "np.tile(bias, taps)",
              "np.repeat(bias, taps)"),
    _lowering("expand-one-sum", "C-8", "network", "all taps of the expansion share one sum of weights",
              "rows = codes.transpose(0, 2, 1).reshape(taps * outputs, inputs)",
              "rows = np.tile(codes.transpose(0, 2, 1)[0], (taps, 1))"),
    _lowering("network-expand-padding-zero", "C-8", "network", "the expansion's padding is code 0",
              "(codes, x.format.zero_point, rq), y)",
              "(codes, 0, rq), y)"),
    _lowering("network-conv-padding-zero", "C-1", "network", "the convolution's padding is code 0",
              "(codes, below, x.format.zero_point, rq), y)",
              "(codes, below, 0, rq), y)"),
    _lowering("conv-weights-fp32", "C-5", "network", "BF16 weights stay FP32",
              "weight, bias = _to_bf16(weight), _to_bf16(bias)", "bias = _to_bf16(bias)"),
    _lowering("conv-bias-fp32", "C-5", "network", "the BF16 bias stays FP32", "weight, bias = _to_bf16(weight), _to_bf16(bias)",
              "weight = _to_bf16(weight)"),
    _lowering("conv-one-past-frame", "P-3", "network", "a convolution's state is one frame, the oldest tap reads it too",
              "ref, kind = (Ref(x.name, 2),), self._kind(name, x, y)", "ref, kind = (Ref(x.name, 1),), self._kind(name, x, y)"),
    _lowering("relu-not-passed", "M-5", "network", "FP32 layers have no ReLU",
              "(stored.astype(np.float32), bias.astype(np.float32), relu), y, loop=loop)",
              "(stored.astype(np.float32), bias.astype(np.float32), False), y, loop=loop)"),
    _lowering("block-code-bits", "F-6", "network", "the multiplier of the spectrum has 8 bits, as those of layers",
              "m, n = int(np.rint(fraction * 2.0**24)), 24 - power", "m, n = int(np.rint(fraction * 2.0**8)), 8 - power",
              near="network/small-int8/*"),
    _lowering("block-code-shift", "F-6", "network", "the shift of the spectrum is one too small", "24 - power\n",
              "23 - power\n", near="network/small-int8/*"),
    _lowering("overlap-current-tail", "P-3", "network", "a frame's own tail is added to its head", "Ref(tail.name, 1, False)",
              "Ref(tail.name)"),
    _lowering("tables-fp64", "F-12", "network", "the FP32 tables come from the formula, not from the Q1.30 integers",
              "return (table.astype(np.float64) * 2.0**-30).astype(np.float32)",
              "exact = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 255)\n"
              "    return (table * 2.0**-30 if table.ndim == 2 else exact).astype(np.float32)"),
    _preset("preset-last-match", "M-10", "network", "the last matching pattern gives the format",
            "for pattern, kind in self.formats:\n", "for pattern, kind in self.formats[::-1]:\n", near="network/small-int8/*"),
    Mutant("presets/mixmlp.json", "preset-even-blocks", "M-10", "network", "even blocks are 16-bit, not odd ones",
           '["block[135].spectral*.weight", "int8"],\n    ["block[135].spectral.*", "int16"]',
           '["block[246].spectral*.weight", "int8"],\n    ["block[246].spectral.*", "int16"]', near="network/small-mixmlp/*"),
    Mutant("presets/fullmlp.json", "preset-first-block-only", "M-10", "network", "only the first block is 16-bit",
           '["block*.spectral*.weight", "int8"],\n    ["block*.spectral.*", "int16"]',
           '["block1.spectral*.weight", "int8"],\n    ["block1.spectral.*", "int16"]', near="network/small-fullmlp/*"),
    Mutant("presets/mixlstm.json", "preset-state-bf16", "M-10", "network", "the LSTM's hidden state is carried in BF16",
           '["*.lstm.h", "bf16"]', '["*.lstm.h", "bf16"],\n    ["*.lstm.state", "bf16"]', near="network/small-mixlstm/*"),
    Mutant("presets/fpconv.json", "preset-encoder-int8", "M-10", "network", "encoder and spectrum stay INT8",
           '["spectrum", "bf16"],\n    ["encoder", "bf16"],\n    ["encoder.weight", "bf16"],\n    ', "",
           near="network/small-fpconv/*"),
    Mutant("presets/int8.json", "preset-decoder-wide", "M-10", "network", "the decoder's output has 16 bits",
           '["*", "int8"]', '["decoder", "int16"],\n    ["*", "int8"]', near="network/small-int8/*"),
)  # fmt: skip

ROWS = 'values["pcm"].transpose(1, 0, 2).reshape(self.config.speakers, -1)'
ADVANCED = "self._pending = self._pending[count * HOP :].copy()"

SESSION = (
    _session("offline-interleaved", "P-4", "network", "the speakers' frames are not separated", ROWS,
             'values["pcm"].reshape(self.config.speakers, -1)', flags=("channel_order",)),
    _session("offline-latency", "P-4", "network", "the output is a hop late", "            at = first * HOP\n",
             "            at = (first + 1) * HOP\n            out[:, : HOP] = 0\n", flags=("latency",)),
    _session("stream-back-pad", "P-5", "network", "a stream begins without the 96 zeros before it",
             "self._pending: Array = np.zeros(BACK_PAD, np.int16)", "self._pending: Array = np.zeros(0, np.int16)",
             flags=("latency", "chunking")),
    _session("stream-back-pad-64", "P-5", "network", "a stream begins with 64 zeros", "np.zeros(BACK_PAD, np.int16)",
             "np.zeros(64, np.int16)", flags=("latency", "chunking")),
    _session("stream-late", "P-5", "network", "a frame waits for one sample more", "(len(self._pending) - N_FFT) // HOP + 1",
             "(len(self._pending) - N_FFT - 1) // HOP + 1", flags=("latency", "chunking")),
    _session("stream-one-frame-a-chunk", "P-5", "network", "a chunk runs one frame at most",
             "(len(self._pending) - N_FFT) // HOP + 1",
             "min((len(self._pending) - N_FFT) // HOP + 1, 1)", flags=("chunking",)),
    _session("stream-small-chunks-lost", "P-5", "network", "chunks shorter than a hop are padded to one",
             "self._pending = np.concatenate((self._pending, pcm))\n        self._received",
             "self._pending = np.concatenate((self._pending, pcm, np.zeros(max(HOP - len(pcm), 0), np.int16)))\n"
             "        self._received", flags=("chunking",)),
    _session("stream-state-per-chunk", "P-5", "network", "every chunk begins in the start state",
             "values = self.model.run(frames, self._state)",
             "values = self.model.run(frames, self.model.program.start())",
             flags=("chunking",)),
    _session("stream-pending-shifted", "P-5", "network", "one sample too many is kept after a frame", ADVANCED,
             "self._pending = self._pending[max(count * HOP - 1, 0) :].copy()", flags=("chunking", "latency")),
    _session("stream-frames-kept", "P-5", "network", "a whole frame is dropped after each frame", ADVANCED,
             "self._pending = self._pending[count * N_FFT :].copy()", flags=("chunking",)),
    _session("stream-interleaved", "P-5", "network", "the speakers' frames are not separated",
             'parts.append(values["pcm"].transpose(1, 0, 2).reshape(speakers, -1))',
             'parts.append(values["pcm"].reshape(speakers, -1))'),
    _session("flush-surplus", "P-5", "network", "the flush emits the last frame whole",
             "        out = out[:, : self._received - self._emitted]\n", "", flags=("flush",)),
    _session("flush-short", "P-5", "network", "the flush leaves out the last unfinished frame",
             "count = -(-(self._received - self._emitted) // HOP)", "count = (self._received - self._emitted) // HOP",
             flags=("flush",)),
    _session("flush-one-frame", "P-5", "network", "the flush runs one frame at most",
             "count = -(-(self._received - self._emitted) // HOP)",
             "count = min(-(-(self._received - self._emitted) // HOP), 1)",
             flags=("flush",)),
    _session("flush-repeats", "P-5", "network", "the flush repeats the last sample instead of zeros",
             "np.zeros(max(need, 0), np.int16)", "np.full(max(need, 0), self._pending[-1], np.int16)", flags=("flush",)),
    _session("flush-fresh-state", "P-5", "network", "the flush begins in the start state",
             "        self._flushed = True\n        count",
             "        self._flushed = True\n        self._state = self.model.program.start()\n        count", flags=("flush",)),
    _container("digest-descending", "W-2", "network", "parameters are hashed in descending order",
               "for name in sorted(weights):",
               "for name in sorted(weights, reverse=True):"),
    _container("digest-no-separator", "W-2", "network", "no zero byte follows a parameter's name", '+ b"\\0" +', "+"),
    _container("digest-big-endian", "W-2", "network", "parameters are hashed with the high byte first",
               'np.ascontiguousarray(weights[name], "<f4")', 'np.ascontiguousarray(weights[name], ">f4")'),
    _container("digest-keys-unsorted", "W-2", "network", "the header's keys are not sorted",
               "hashlib.sha256(json.dumps(bare, sort_keys=True).encode())", "hashlib.sha256(json.dumps(bare).encode())"),
    _container("digest-compact", "W-2", "network", "the header is hashed without spaces",
               "json.dumps(bare, sort_keys=True)", 'json.dumps(bare, sort_keys=True, separators=(",", ":"))'),
    Mutant("version.py", "arithmetic-version", "P-6", "numerics", "the arithmetic calls itself another version",
           'ARITHMETIC = "1"', 'ARITHMETIC = "2"'),
    _container("container-ranges-swapped", "W-1", "network", "a range's ends change places",
               "str(k): (float(lo), float(hi)) for k, (lo, hi)", "str(k): (float(lo), float(hi)) for k, (hi, lo)"),
)  # fmt: skip

MUTANTS = (*STATE, *WIRING, *NETWORK, *SESSION)
