"""Steps of training against those of the field's own code (../shared/golden), in float64, and what a method is."""

from __future__ import annotations

import golden
import pytest
import torch
from torch import nn

from styleforge import methods, train
from styleforge.methods.base import Batch, History

def needs_golden(test):
    for mark in golden.NEEDS_GOLDEN:
        test = mark(test)
    return test


LOSS, WEIGHT = 1e-9, 1e-8  # relative; biases that a norm cancels are not ours


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # another test may have asked for bf16
    yield Accelerator(cpu=True, mixed_precision="no")
    AcceleratorState._reset_state(reset_partial_state=True)


def run(method, batches, accelerator):
    """Train as `train.train` does; the terms of every step."""
    players = method.train().players()
    optimizers = {p.name: torch.optim.Adam(p.parameters(), lr=p.lr, betas=p.betas) for p in players}
    log = []
    for step, tensors in enumerate(batches):
        batch, terms = Batch(tensors, 0, step, 0), {}
        for player in players:
            terms |= train.play(player, optimizers[player.name], batch, accelerator)
        log.append(terms)
    return log


# -- against the field's own code --


def adopt(name, method, networks):
    """Upstream's first weights in `networks` {its name: (our network, names)}; the batches of the run."""
    for their, (network, names) in networks.items():
        golden.adopt(network, golden.tensors(name, f"init_net_{their}.pth"), names)
    io, steps = golden.tensors(name), len(golden.meta(name)["losses_per_step_float64"])
    return [
        {"source": golden.picture(io, f"A_{i}"), "target": golden.picture(io, f"B_{i}")} for i in range(steps)
    ]


def compare_losses(name, log, mapping):
    """`mapping` is {our term: (factor on theirs, their terms, added up)}."""
    expected = golden.meta(name)["losses_per_step_float64"]
    assert len(log) == len(expected) >= 3
    for ours, theirs in zip(log, expected, strict=True):
        assert ours == pytest.approx(
            {term: factor * sum(theirs[t] for t in terms) for term, (factor, terms) in mapping.items()},
            rel=LOSS,
        )
    compared = {term for _, terms in mapping.values() for term in terms}
    return set(expected[0]) - compared


def compare_weights(name, networks):
    final = golden.meta(name)["final_weights_float64 {net: {key: [sum, l2 norm]}}"]
    assert final.keys() == networks.keys()
    for their, (network, names) in networks.items():
        expected, _ = golden.rename(final[their], names)
        state = {k: t for k, t in network.state_dict().items() if not k.endswith("num_batches_tracked")}
        assert expected.keys() >= state.keys()
        for key, tensor in state.items():
            total, norm = expected[key]
            assert tensor.norm().item() == pytest.approx(norm, rel=WEIGHT), (their, key)
            assert tensor.sum().item() == pytest.approx(total, abs=WEIGHT * norm), (their, key)


def discriminator_names(network):
    return golden.sequential_names(network.state_dict())


def biased(convolution):
    """The same with a bias, as upstream has it everywhere."""
    made = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        convolution.stride,
        convolution.padding,
    )
    return made


@needs_golden
def test_cyclegan(accelerator):
    name = "train_cyclegan"
    method = methods.build(
        "cyclegan", {"width": 4, "blocks": 6, "upsample": "transpose", "discriminator_width": 4}
    )
    networks = {
        "G_A": (method.to_target, golden.resnet_names(6)),
        "G_B": (method.to_source, golden.resnet_names(6)),
        # Upstream's D_A judges what G_A makes, so it sees pictures of domain B.
        "D_A": (method.target_discriminator, discriminator_names(method.target_discriminator)),
        "D_B": (method.source_discriminator, discriminator_names(method.source_discriminator)),
    }
    batches = adopt(name, method, networks)
    log = run(method.double(), batches, accelerator)
    left = compare_losses(
        name,
        log,
        {
            "generator/target": (1, ["G_A"]),
            "generator/source": (1, ["G_B"]),
            "generator/cycle_source": (1, ["cycle_A"]),
            "generator/cycle_target": (1, ["cycle_B"]),
            "generator/identity_target": (1, ["idt_A"]),
            "generator/identity_source": (1, ["idt_B"]),
            "target_d/real_fake": (1, ["D_A"]),
            "source_d/real_fake": (1, ["D_B"]),
        },
    )
    assert not left
    compare_weights(name, networks)
    final = method.to_target(batches[0]["source"])
    assert golden.error(final, golden.tensors(name), "final_G_of_A0_64_trainmode") < WEIGHT
    assert len(method.target_history.images) == len(method.source_history.images) == len(batches)


@needs_golden
def test_pix2pix(accelerator):
    name = "train_pix2pix"
    method = methods.build(
        "pix2pix", {"width": 2, "dropout": False, "discriminator_width": 4, "adversarial": "vanilla"}
    )
    networks = {
        "G": (method.generator, golden.unet_names(7)),
        "D": (method.discriminator, discriminator_names(method.discriminator)),
    }
    batches = adopt(name, method, networks)
    left = compare_losses(
        name,
        run(method, batches, accelerator),
        {
            "d/real_fake": (0.5, ["D_real", "D_fake"]),
            "generator/fool": (1, ["G_GAN"]),
            "generator/l1": (1, ["G_L1"]),
        },
    )
    assert not left
    # In training mode; it moves the running statistics once more, and upstream's sums were taken after it.
    final = method.generator(batches[0]["source"])
    assert golden.error(final, golden.tensors(name), "final_G_of_A0_64_trainmode") < WEIGHT
    compare_weights(name, networks)


@needs_golden
def test_cut(accelerator):
    name = "train_cut"
    io = golden.tensors(name)
    method = methods.build(
        "cut", {"width": 4, "blocks": 6, "discriminator_width": 4, "patches": 16, "head_width": 16}
    )
    # Upstream's two convolutions on the way down have biases that PatchNCE sees; ours leave that to the biases of
    # the heads, which is as good but takes other steps. To compare the steps, give them theirs.
    for down in method.generator.down:
        down.conv = biased(down.conv)
    networks = {
        "G": (method.generator, golden.resnet_names(6, blur=True, blur_up=True)),
        "F": (method.heads, golden.heads_names(5)),
        "D": (method.discriminator, discriminator_names(method.discriminator)),
    }
    batches = adopt(name, method, networks)

    def places(batch, image, sizes):
        step, first = batch.key[1], {"source": 0, "target": 5}[image]
        ids = [io[f"patch_ids_step{step}_call{first + i}"] for i in range(5)]
        assert all(i.max() < size for i, size in zip(ids, sizes, strict=True))
        return ids

    method._places = places
    left = compare_losses(
        name,
        run(method, batches, accelerator),
        {
            "d/real_fake": (0.5, ["D_real", "D_fake"]),
            "generator/fool": (1, ["G_GAN"]),
            "generator/nce": (0.5, ["NCE"]),
            "generator/nce_identity": (0.5, ["NCE_Y"]),
        },
    )
    assert left == {"G"}  # their sum
    compare_weights(name, networks)
