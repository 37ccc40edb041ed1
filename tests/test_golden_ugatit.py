"""UGATITGenerator, its discriminators and the method against znxlwm's UGATIT-pytorch, in float64.

Upstream's spectral norm is torch's older one. Its power iteration goes on from the left vector, the newer one from
the right: with the same vectors the first is half a step behind. Tests of training give this order back.
"""

from __future__ import annotations

import golden
import pytest
import torch
from test_golden_training import compare_losses, make_accelerator
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from styleforge import methods, train
from styleforge.methods.base import Batch
from styleforge.models import UGATITDiscriminator, UGATITGenerator
from styleforge.models import ugatit as family

pytestmark = golden.NEEDS_GOLDEN
TOLERANCE, WEIGHT = 1e-9, 1e-8
GENERATORS, DISCRIMINATORS = ("genA2B", "genB2A"), {"disGA": 7, "disLA": 5}
CONFIGS = {"ugatit_light": {}, "ugatit_full": {"light": False, "size": 32}}
each = pytest.mark.parametrize("name", CONFIGS)
FILE = "YOUR_DATASET_NAME_params_0100000.pt"


# -- upstream's names --


def generator_names(blocks: int) -> dict[str, str]:
    return golden.names("ugatit", blocks=blocks)


def discriminator_names(layers: int) -> dict[str, str]:
    names = golden.names("ugatit-discriminator", layers=layers)
    inside = ("", ".parametrizations.weight", ".parametrizations.weight.0")
    return {f"{ours}{part}": f"{theirs}{part}" for ours, theirs in names.items() for part in inside}


def modern(theirs: dict) -> dict:
    """Upstream's entries under the names that the newer spectral norm would have given them."""
    parts = {"orig": "original", "u": "0._u", "v": "0._v"}
    return {
        f"{head}.parametrizations.weight.{parts[kind]}" if dot else key: value
        for key, value in theirs.items()
        for head, dot, kind in [key.partition(".weight_")]
    }


def read(name: str, file: str = FILE) -> dict[str, dict[str, Tensor]]:
    nested = torch.load(golden.GOLDEN / name / file, weights_only=True)
    return {net: {key: t.double() for key, t in modern(state).items()} for net, state in nested.items()}


def build(name: str, net: str) -> tuple[nn.Module, dict[str, str]]:
    if net in GENERATORS:
        network, names = UGATITGenerator(width=2, **CONFIGS[name]), generator_names(4)
    else:
        layers = DISCRIMINATORS[net]
        network, names = UGATITDiscriminator(width=2, layers=layers), discriminator_names(layers)
    return golden.adopt(network, read(name)[net], names).eval(), names


@pytest.fixture
def older_spectral_norm(monkeypatch):
    def iterate(self, weight, count):
        for _ in range(count):
            self._v = nn.functional.normalize(weight.mT @ self._u, dim=0, eps=self.eps)
            self._u = nn.functional.normalize(weight @ self._v, dim=0, eps=self.eps)

    monkeypatch.setattr(parametrizations._SpectralNorm, "_power_method", torch.no_grad()(iterate))


# -- networks --


def cases(name: str) -> list[tuple[str, str]]:
    found = [(net, case) for net in (*GENERATORS, *DISCRIMINATORS) for case in golden.meta(name)[net]["cases"]]
    assert len(found) == 6
    return found


def compare(io: dict[str, Tensor], net: str, case: str, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
    for output, kind in zip(outputs, ("y", "cam_logit", "heatmap"), strict=True):
        assert golden.error(output, io, f"{net}.{kind}64_{case}") < TOLERANCE, (net, case, kind)


@each
def test_outputs(name, monkeypatch):
    io = golden.tensors(name)
    for net, case in cases(name):  # also of sides that are no multiples of 4
        network, x = build(name, net)[0], io[f"{net}.x_{case}"]
        if net in DISCRIMINATORS:
            compare(io, net, case, network.judge(x))
        elif (name, case) != ("ugatit_full", "b"):
            compare(io, net, case, network.translate(x))
        else:
            # 16x64 pixels have as many places as 32x32, and upstream takes them row by row for such. We rather
            # average the map to the shape that the matrix was learnt for: another style, everything else alike.
            image, logits, heatmap = network.translate(x)
            assert golden.error(logits, io, f"{net}.cam_logit64_b") < TOLERANCE
            assert golden.error(heatmap, io, f"{net}.heatmap64_b") < TOLERANCE
            assert golden.error(image, io, f"{net}.y64_b") > 0.01
            with monkeypatch.context() as patch:
                patch.setattr(family.F, "adaptive_avg_pool2d", lambda x, side: x)
                compare(io, net, case, network.translate(x))


@each
@pytest.mark.parametrize("net", [*GENERATORS, *DISCRIMINATORS])
def test_gradients(name, net):
    (network, names), io, grad = build(name, net), golden.tensors(name), golden.meta(name)[net]["grad"]
    x = io[f"{net}.x_a"].requires_grad_()
    loss = network(x).square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(grad["loss_value"], rel=TOLERANCE)
    assert golden.error(x.grad, io, f"{net}.gx64_a") < TOLERANCE
    expected, left = golden.rename(modern(grad["param_grad_norms"]), names)
    assert not left
    norms = {key: p.grad.norm().item() for key, p in network.named_parameters()}
    assert norms == pytest.approx(expected, rel=TOLERANCE)


@each
@pytest.mark.parametrize("net", DISCRIMINATORS)
def test_a_step_of_the_power_iteration(name, net, older_spectral_norm):
    (network, names), io = build(name, net), golden.tensors(name)
    compare(io, net, "train1", network.train().judge(io[f"{net}.x_a"]))
    prefix = f"{net}.after_train1."
    after, _ = golden.rename(modern({k.removeprefix(prefix): t for k, t in io.items() if k.startswith(prefix)}), names)
    assert len(after) == 3
    for key, vector in after.items():
        assert (network.state_dict()[key] - vector).abs().max() < TOLERANCE


@each
def test_outputs_in_float32(name):
    io = golden.tensors(name)
    for net in (*GENERATORS, *DISCRIMINATORS):
        y = build(name, net)[0].float()(io[f"{net}.x_a"].float())
        facts = golden.meta(name)[net]["cases"]["a"]["outputs"]["y"]
        # Five times what upstream's own float32 is off by.
        assert golden.error(y.double(), io, f"{net}.y64_a") < 5 * facts["max_abs_f32_vs_f64"] / facts["rms"]


@each
def test_the_generator_alone_is_the_same_file(name):
    alone, together = golden.tensors(name, "genA2B.safetensors"), read(name)["genA2B"]
    assert alone.keys() == together.keys() and all(torch.equal(t, together[key]) for key, t in alone.items())


# -- norms, and what they are clipped to --


def test_norms():
    io = golden.tensors("ugatit_norm_primitives")
    ada, iln = family.AdaILN(5).double(), family.ILN(5).double()
    ada.load_state_dict({"rho": io["ada_rho"]})
    iln.load_state_dict({key: io[f"iln_{key}"] for key in ("rho", "gamma", "beta")})
    scale, shift = io["gamma"][..., None, None], io["beta"][..., None, None]
    assert golden.error(ada(io["x"], scale, shift), io, "adailn64") < TOLERANCE
    assert golden.error(iln(io["x"]), io, "iln64") < TOLERANCE


def test_clipping():
    io = golden.tensors("ugatit_norm_primitives")
    network = UGATITGenerator(width=5, blocks=1).double()
    norm = network.up[1][2]
    with torch.no_grad():
        norm.rho.copy_(io["rho_before"].view(1, 5, 1, 1))
        norm.gamma.fill_(7.0)
    network.clip_rho()
    assert torch.equal(norm.rho.flatten(), io["rho_clipped"]) and (norm.gamma == 7).all()


def test_gray_heatmap():
    io = golden.tensors("ugatit_norm_primitives")
    gray = family.draw_heatmap(io["heatmap"][None], (6, 8))
    # Upstream rounds down to 8 bits.
    assert torch.equal(((gray[0, :1] + 1) / 2 * 255 + 1e-9).byte(), io["cam_gray_u8"])
    assert torch.equal(gray, gray[:, :1].expand_as(gray))


# -- training --


def test_training(older_spectral_norm, monkeypatch):
    name = "train_ugatit"
    facts = golden.meta(name)
    options, steps = facts["options"], facts["losses_per_step_float64"]
    method = methods.build("ugatit", {"width": 2, "blocks": 2, "discriminator_width": 2}).double().train()
    networks = {
        "genA2B": (method.generators["target"], generator_names(2)),
        "genB2A": (method.generators["source"], generator_names(2)),
        "disGA": (method.discriminators["source_global"], discriminator_names(7)),
        "disLA": (method.discriminators["source_local"], discriminator_names(5)),
        "disGB": (method.discriminators["target_global"], discriminator_names(7)),
        "disLB": (method.discriminators["target_local"], discriminator_names(5)),
    }
    initial = read(name, "init_params.pt")
    assert initial.keys() == networks.keys() and len(steps) == options["iteration"] == 4
    for their, (network, names) in networks.items():
        golden.adopt(network, initial[their], names)

    # Upstream looks at real pictures first; with each look the power iteration goes on.
    terms = method.adversary.discriminator_terms

    def real_first(judge, real, fake, *args):
        known = judge(real)
        return terms(lambda images: known if images is real else judge(images), real, fake, *args)

    monkeypatch.setattr(method.adversary, "discriminator_terms", real_first)
    io, accelerator = golden.tensors(name), make_accelerator()
    players = method.players()
    optimizers = {p.name: p.optimizer() for p in players}
    assert all(p.lr == options["lr"] and p.weight_decay == options["weight_decay"] for p in players)
    log = []
    for step, theirs in enumerate(steps):
        batch = Batch(
            {"source": golden.picture(io, f"A_{step}"), "target": golden.picture(io, f"B_{step}")}, 0, step, 0
        )
        assert theirs["lr_G"] == theirs["lr_D"]
        rate, found = theirs["lr_G"] / options["lr"], {}
        for player in players:
            found |= train.play(player, optimizers[player.name], [batch], accelerator, rate=rate)
        log.append({name: value for name, value in found.items() if not name.endswith("/gradient_norm")})

    mapping: dict[str, tuple[float, list[str]]] = {}
    for domain, letter in (("target", "B"), ("source", "A")):
        for reach in ("global", "local"):
            which = f"{reach[0].upper()}{letter}"
            mapping[f"d/{domain}_{reach}"] = (1, [f"D_ad_loss_{which}", f"D_ad_cam_loss_{which}"])
            mapping[f"generator/{domain}_{reach}"] = (1, [f"G_ad_loss_{which}", f"G_ad_cam_loss_{which}"])
        mapping[f"generator/cycle_{domain}"] = (options["cycle_weight"], [f"G_recon_loss_{letter}"])
        mapping[f"generator/identity_{domain}"] = (options["identity_weight"], [f"G_identity_loss_{letter}"])
        mapping[f"generator/cam_{domain}"] = (options["cam_weight"], [f"G_cam_loss_{letter}"])
    sums = {"D_loss_A", "D_loss_B", "Discriminator_loss", "G_loss_A", "G_loss_B", "Generator_loss"}
    assert compare_losses(name, log, mapping) == sums | {"lr_D", "lr_G"}

    final = facts["final_weights_float64 {net: {key: [sum, l2 norm]}}"]
    for their, (network, names) in networks.items():
        expected, left = golden.rename(modern(final[their]), names)
        state = network.state_dict()
        assert not left and expected.keys() == state.keys()
        for key, (total, norm) in expected.items():
            assert state[key].norm().item() == pytest.approx(norm, rel=WEIGHT), (their, key)
            assert state[key].sum().item() == pytest.approx(total, abs=WEIGHT * norm), (their, key)
