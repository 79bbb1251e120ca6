"""The released network at its real size, for the large suite: every constant and tensor of a frame, and a whole clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from golden_vectors.case import Case, Network
from golden_vectors.execute import digests_of
from golden_vectors.suite.making import finish, program_slice, tensor
from golden_vectors.suite.network import LOWERING_RULES, NETWORK_RULES, PROFILE, speech
from refimpl.session import Model
from refimpl.weights_io import default_weights, load_container


def cases() -> Iterator[Case]:
    weights = load_container(default_weights())
    pcm = np.concatenate((speech(), speech()[::-1]))
    for preset in weights.presets:
        model = Model(weights, preset, PROFILE)
        rules = (*NETWORK_RULES, "P-1", "P-3", "P-6")
        text = "the released network on the first frame of a stream, with every integer constant"
        case = Case(f"frame/released-{preset}", text, rules, {}, (), ("start_state",), PROFILE, preset)
        yield program_slice(case, model.program, model.program.steps, model.trace(pcm[:96]), (0, 1))
        text = "the released network on two thirds of a second: PCM in and out, a CRC-32 of every tensor of every frame"
        rules = ("P-4", *NETWORK_RULES, *LOWERING_RULES)
        network = Network("released", weights.digest, weights.config.to_dict())
        case = Case(f"network/released-{preset}/clip", text, rules, {}, (), ("latency",), PROFILE, preset, None, network)
        empty = np.zeros((weights.config.speakers, len(pcm)))
        case = replace(case, tensors={"pcm_in": tensor("input", "int16", pcm), "pcm_out": tensor("expected", "int16", empty)})
        yield replace(finish(case), network=replace(network, crc32=digests_of(case)))
