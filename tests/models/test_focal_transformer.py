import copy
import dataclasses
import random

import pytest
import torch
from mmengine.registry import MODELS

from focal_mm import FocalTransformer
from focal_mm.layers import FocalBlock
from focal_mm.ops import BACKENDS

LARGE = {"large": 196, "large_192": 192, "large_196": 196}
QUICK_SEEDS = range(8)
MORE_SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 60)]


def random_options(seed):
    """Constructor arguments and an input shape; the seed decides all of them."""
    rng = random.Random(seed)
    levels = rng.choice([1, 2, 2, 3])
    options = dict(
        arch=dict(embed_dims=8, depths=(2, 1, 1), num_heads=(1, 2, 2)),
        window_size=rng.choice([7, 4, (7, 6, 5)]),
        expand_sizes=rng.choice([0, 3, (3, 2, 0)]),
        expand_layer=rng.choice(["all", "even", "odd"]),
        focal_levels=levels,
        focal_windows=rng.choice([(7, 5, 3), (15, 13, 9), 1]),
        focal_pool="none" if levels == 1 else rng.choice(["fc", "conv", "mean", "max"]),
        qkv_bias=rng.random() < 0.7,
        qk_scale=rng.choice([None, 0.3]),
        use_conv_embed=rng.random() < 0.5,
        use_pre_norm=rng.random() < 0.5,
        patch_norm=rng.random() < 0.7,
        layer_scale_init_value=rng.choice([None, 0.1]),
        use_shift=rng.random() < 0.5,
        use_abs_pos_embed=rng.random() < 0.5,
        pretrain_img_size=rng.choice([32, (24, 40)]),
        drop_path_rate=0.0,
        out_indices=(0, 1, 2),
    )
    shapes = [(1, 1, 1), (2, 37, 61), (1, 1, 230), (1, 5, 3), (2, 64, 64), (1, 131, 30)]
    return options, rng.choice(shapes)


def random_topk_options(seed):
    """The same for Focal-fast, without the options that it does not have."""
    options, shape = random_options(seed)
    for name in ("expand_sizes", "expand_layer", "focal_windows", "use_shift"):
        del options[name]
    options["focal_levels"] = min(options["focal_levels"], 2)
    options["key_selection"] = "topk"
    options["topk"] = [None, 20, (64, 9, 1)][seed % 3]
    return options, shape


OPTIONS = {"window": random_options, "topk": random_topk_options}


@pytest.fixture(params=OPTIONS)
def selection(request):
    """A key selection, as the backbone's ``key_selection``."""
    return request.param


def loss_of(outputs):
    """A loss to which every output position adds with its own weight."""
    generator = torch.Generator().manual_seed(0)
    return sum(
        (out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum()
        for out in outputs
    )


def grads_of(model, x):
    model.zero_grad()
    outputs = model(x)
    loss_of(outputs).backward()
    return outputs, {k: p.grad.clone() for k, p in model.named_parameters()}


@pytest.mark.parametrize("seed", [*QUICK_SEEDS, *MORE_SEEDS])
def test_any_size_and_options_agree_with_naive_in_every_gradient(seed, selection):
    options, (batch, height, width) = OPTIONS[selection](seed)
    torch.manual_seed(seed)
    model = FocalTransformer(**options).double()
    reference = FocalTransformer(**options, attn_backend="naive").double()
    reference.load_state_dict(model.state_dict())
    x = torch.randn(batch, 3, height, width, dtype=torch.float64)

    outputs, grads = grads_of(model, x)
    expected, expected_grads = grads_of(reference, x)

    for stage, (out, want) in enumerate(zip(outputs, expected, strict=True)):
        stride = 4 * 2**stage
        size = (-(-height // stride), -(-width // stride))
        assert out.shape == (batch, 8 * 2**stage, *size)
        torch.testing.assert_close(out, want, rtol=1e-7, atol=1e-7)
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(
            grad,
            expected_grads[name],
            rtol=1e-6,
            atol=1e-6,
            msg=lambda m, name=name: f"{name}: {m}",
        )


@pytest.mark.parametrize("seed", range(4))
def test_every_parameter_gets_a_gradient(seed, selection):
    """What DDP needs without find_unused_parameters."""
    options, _ = OPTIONS[selection](seed)
    options["out_indices"] = (1,)
    model = FocalTransformer(**options)
    _, grads = grads_of(model, torch.randn(1, 3, 61, 45))
    assert all(grad.abs().max() > 0 for name, grad in grads.items() if "norm" in name)
    assert not any("stages.2" in name for name in grads)


def test_padding_is_invisible_to_the_size_of_the_batch(selection, small_backbone):
    """Each image's result does not depend on the others in the batch."""
    model = small_backbone(key_selection=selection).eval()
    x = torch.randn(3, 3, 75, 53)
    with torch.no_grad():
        together = model(x)
        alone = model(x[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5)


def test_channels_last_input(small_backbone):
    model = small_backbone(use_conv_embed=True).eval()
    x = torch.randn(2, 3, 45, 64)
    with torch.no_grad():
        plain = model(x)
        channels_last = model(x.to(memory_format=torch.channels_last))
    for a, b in zip(plain, channels_last, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_cast_models(dtype, selection, small_backbone, relative_error):
    detection = dict(focal_windows=(15, 13, 9, 7), expand_sizes=3)
    model = small_backbone(
        key_selection=selection, **(detection if selection == "window" else {})
    )
    x = torch.randn(1, 3, 45, 64)
    expected = [out.detach() for out in model(x)]
    tolerance = 0.1 if dtype == torch.bfloat16 else 0.02
    with torch.autocast("cpu", dtype):
        outputs = model(x)
    loss_of(outputs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    for out, want in zip(outputs, expected, strict=True):
        assert relative_error(out.float(), want) < tolerance
    cast = copy.deepcopy(model).to(dtype)
    for out, want in zip(cast(x.to(dtype)), expected, strict=True):
        assert out.dtype == dtype
        assert relative_error(out.float(), want) < tolerance


def test_checkpointing_changes_neither_output_nor_gradient(selection, small_backbone):
    options = dict(
        key_selection=selection, drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.3
    )
    model = small_backbone(**options)
    recomputed = small_backbone(**options, with_cp=True)
    recomputed.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 33, 40)
    results = []
    for m in (model, recomputed):
        torch.manual_seed(3)
        calls = []
        handles = [
            block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
            for block in m.modules()
            if isinstance(block, FocalBlock)
        ]
        results.append((*grads_of(m, x), len(calls), len(handles)))
    (outs, grads, calls, blocks), (outs_cp, grads_cp, calls_cp, _) = results
    assert (calls, calls_cp) == (blocks, 2 * blocks)
    for a, b in zip(outs, outs_cp, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, grads_cp[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("frozen", [-1, 0, 2, 4])
def test_frozen_stages(frozen, selection, small_backbone):
    model = small_backbone(
        frozen_stages=frozen,
        use_abs_pos_embed=True,
        drop_path_rate=0.2,
        key_selection=selection,
    )
    assert model.train() is model
    for name, parameter in model.named_parameters():
        is_stem = name.startswith(("patch_embed", "absolute_pos_embed"))
        stage = next((int(c) for c in name if c.isdigit()), 0)
        in_stage = name.startswith(("stages", "norm"))
        expected = (is_stem and frozen >= 0) or (in_stage and stage < frozen)
        assert parameter.requires_grad != expected, name
    assert [stage.training for stage in model.stages] == [i >= frozen for i in range(4)]
    if frozen < 4:
        loss_of(model(torch.randn(1, 3, 40, 40))).backward()


def test_norm_eval_and_modes(small_backbone):
    model = small_backbone(norm_eval=True, use_pre_norm=True).train()
    norms = [m for n, m in model.named_modules() if "norm" in n.split(".")[-1]]
    assert norms
    assert not any(norm.training for norm in norms)
    assert model.stages[0].blocks[0].mlp.training
    assert model.eval() is model


def test_stochastic_depth_grows_to_its_rate_and_only_acts_in_training(small_backbone):
    model = small_backbone(drop_path_rate=0.4)
    rates = [
        b.drop_path.drop_prob for b in model.modules() if isinstance(b, FocalBlock)
    ]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.4, 5))
    x = torch.randn(8, 3, 16, 16)
    model.train()
    assert any((a != b).any() for a, b in zip(model(x), model(x), strict=True))
    model.eval()
    assert all((a == b).all() for a, b in zip(model(x), model(x), strict=True))


@pytest.mark.parametrize("library", ["mmdet", "mmseg", "mmpretrain"])
def test_registered_once_for_all_libraries(library):
    registry = pytest.importorskip(
        f"{library}.registry", reason=f"{library} is not installed"
    ).MODELS
    config = dict(type="FocalTransformer", arch="tiny", out_indices=(0,))
    assert isinstance(registry.build(config), FocalTransformer)
    assert MODELS.get("FocalTransformer") is FocalTransformer


@pytest.mark.parametrize(
    ("size", "shifts"), [((28, 60), False), ((60, 28), False), ((32, 32), True)]
)
def test_maps_of_a_single_window_are_not_shifted(size, shifts, small_backbone):
    """A map whose height or width is at most the window is as without a shift."""
    options = dict(out_indices=(0,))
    shifted = small_backbone(**options, use_shift=True).eval()
    plain = small_backbone(**options).eval()
    plain.load_state_dict(shifted.state_dict())
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        same = torch.equal(shifted(x)[0], plain(x)[0])
    assert same == (not shifts)


@pytest.mark.parametrize(
    ("arch", "millions"), [("tiny", 30.2), ("small", 51.5), ("base", 91.2)]
)
def test_focal_fast_has_the_released_number_of_parameters(arch, millions):
    """The released table counts the classifier of 1000 classes, too."""
    model = FocalTransformer(
        arch, key_selection="topk", use_conv_embed=True, out_indices=(3,)
    )
    head = (model.num_features[-1] + 1) * 1000
    count = sum(parameter.numel() for parameter in model.parameters()) + head
    assert round(count / 1e6, 1) == millions


def test_focal_fast_sees_the_whole_of_small_maps_and_no_more_than_topk(small_backbone):
    """A far pixel matters exactly where the map has no more than ``topk`` tokens."""
    x = torch.randn(1, 3, 28, 112)
    changed = x.clone()
    changed[..., -4:] += 1
    for topk, matters in ((7 * 28, True), (7 * 14, False)):
        model = small_backbone(
            key_selection="topk",
            topk=topk,
            focal_levels=1,
            focal_pool="none",
            arch=dict(embed_dims=16, depths=(1,), num_heads=(1,)),
            out_indices=(0,),
        ).eval()
        with torch.no_grad():
            first_window = [model(image)[0][..., :7] for image in (x, changed)]
        assert torch.equal(*first_window) != matters


def test_both_readings_of_large_are_presets():
    sizes = {name: FocalTransformer(name, out_indices=(0,)) for name in LARGE}
    assert {name: m.num_features[0] for name, m in sizes.items()} == LARGE


def test_layer_depth_counts_blocks(small_backbone):
    model = small_backbone(use_abs_pos_embed=True)
    depths = {}
    for name, _ in model.named_parameters():
        depth, total = model.get_layer_depth("backbone." + name, prefix="backbone.")
        assert total == 5 + 2
        depths[name] = depth
    assert depths["patch_embed.proj.weight"] == depths["absolute_pos_embed"] == 0
    assert depths["stages.0.blocks.0.norm1.weight"] == 1
    assert depths["stages.0.blocks.1.attn.qkv.weight"] == 2
    assert depths["stages.0.downsample.proj.weight"] == 2
    assert depths["stages.3.blocks.0.mlp.fc1.weight"] == 5
    assert depths["norm3.weight"] == 5
    assert model.get_layer_depth("head.fc.weight", "backbone.") == (6, 7)


def test_masks_and_indices_are_not_rebuilt_in_every_forward(
    small_backbone, monkeypatch
):
    model = small_backbone(use_shift=True, focal_windows=3).eval()
    x = torch.randn(1, 3, 90, 120)
    with torch.no_grad():
        model(x)
        built = []
        monkeypatch.setattr(torch, "arange", lambda *a, **k: built.append(a))
        model(x)
    assert built == []


def test_copies_pickles_and_compiles(selection, small_backbone):
    model = small_backbone(
        key_selection=selection, use_shift=selection == "window"
    ).eval()
    twin = copy.deepcopy(model)
    # Unlike 'eager', this one also traces what the operators do.
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    for shape in ((2, 3, 64, 64), (2, 3, 45, 90)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = model(x)
            for other in (twin(x), compiled(x)):
                for a, b in zip(expected, other, strict=True):
                    torch.testing.assert_close(a, b)


def test_backend_of_the_config_is_the_one_that_runs(small_backbone, monkeypatch):
    ran = []
    backends = tuple(
        dataclasses.replace(
            b,
            run=lambda inputs, b=b: ran.append(b.name) or b.run(inputs),
            preferred_on="",
        )
        for b in BACKENDS["window"]
    )
    monkeypatch.setitem(BACKENDS, "window", backends)
    x = torch.randn(1, 3, 16, 16)
    for name in ("naive", "sdpa"):
        ran.clear()
        small_backbone(attn_backend=name)(x)
        assert set(ran) == {name}
    ran.clear()
    small_backbone()(x)
    assert set(ran) == {backends[0].name}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(arch="huge"), "arch.*'tiny'"),
        (dict(arch=dict(embed_dims=96, depths=(2, 2))), "arch.*num_heads"),
        (
            dict(arch=dict(embed_dims=9, depths=(1,), num_heads=(2,))),
            "num_heads=2 of stage 0 must divide its 9",
        ),
        (dict(window_size=(7, 7)), "window_size"),
        (dict(expand_sizes=8), "expand_size"),
        (dict(focal_windows=4), "focal_window"),
        (dict(focal_levels=4), "focal_levels"),
        (
            dict(focal_levels=3, window_size=1, expand_sizes=0),
            "coarse_levels|focal_lev",
        ),
        (dict(focal_pool="none"), "focal_pool='none'"),
        (dict(focal_pool="avg"), "focal_pool.*'mean'"),
        (dict(expand_layer="none"), "expand_layer.*'even'"),
        (dict(out_indices=(0, 4)), "out_indices"),
        (dict(out_indices=()), "out_indices"),
        (dict(frozen_stages=5), "frozen_stages"),
        (dict(attn_backend="flash"), "attn_backend.*'naive'"),
        (dict(drop_path_rate=1.5), "drop_path_rate"),
        (dict(key_selection="all"), "key_selection.*'topk'"),
        (dict(topk=64), "topk: no effect with key_selection='window'"),
        (dict(key_selection="topk", topk=0), "stage 0: topk"),
        (dict(key_selection="topk", topk=(64, 64)), "topk.*4 values"),
        (dict(key_selection="topk", focal_levels=3), "focal_levels.*'topk'"),
        (dict(key_selection="topk", expand_sizes=3), "expand_sizes: no effect"),
        (dict(key_selection="topk", expand_layer="all"), "expand_layer: no effect"),
        (dict(key_selection="topk", focal_windows=7), "focal_windows: no effect"),
        (dict(key_selection="topk", use_shift=True), "use_shift: no effect"),
        (dict(key_selection="topk", attn_backend="flash"), "attn_backend.*'naive'"),
        (dict(init_cfg=dict(type="Pretrained", checkpoint="x", strict=True)), "strict"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        FocalTransformer(**arguments).init_weights()


def test_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="windows_size"):
        FocalTransformer(windows_size=7)
