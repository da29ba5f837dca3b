import dataclasses

import pytest

from resflax.config import Config, ModelConfig, OptimConfig, apply_overrides, validate
from resflax.config.validate import _RULES, AUGMENTATIONS, MIXING, ON_HOST
from resflax.errors import ConfigError

VALID = Config(total_steps=100)
EPOCHS = Config(total_epochs=10)

# rule -> [(what is changed, what the message says)]. What is changed is written as on the command line.
IMPOSSIBLE = {
    "_one_duration": [
        ("total_steps=none", "exactly one of config.total_steps and config.total_epochs must be set, got None and None"),
    ],
    "_model": [
        ("model.name=cifar_resnt20", "there is no model 'cifar_resnt20'; did you mean cifar_resnet20"),
        ("model.name=", "there is no model ''"),
        ("model.name=cifar_resnet21", "the depth of cifar_resnet must be 6n+2 (8, 14, 20, ...), got 21; use cifar_resnet20"),
    ],
    "_microbatches": [
        ("optim.accumulate=3", "config.data.batch_size must be a multiple of config.optim.accumulate, got 128 and 3"),
        ("optim.accumulate=256", "got 128 and 256; change one of them"),
    ],
    "_group": [
        ("batch_norm.group_size=48", "= 128) must be a multiple of config.batch_norm.group_size, got 48; use a divisor of 128"),
        ("batch_norm.group_size=256", "got 256; use a divisor of 128"),
        ("batch_norm.group_size=64 optim.accumulate=4", "= 32) must be a multiple of config.batch_norm.group_size, got 64"),
    ],
    "_warmup": [
        ("optim.warmup_steps=5 optim.warmup_epochs=1", "only one of config.optim.warmup_steps and config.optim.warmup_epochs"),
        ("optim.warmup_steps=5 optim.warmup_fraction=0.1", "got 5 and 0.1; set the other to 0"),
        ("optim.warmup_epochs=5 optim.warmup_fraction=0.1", "got 5.0 and 0.1; set the other to 0"),
        ("optim.warmup_steps=100", "config.optim.warmup_steps must be less than config.total_steps, got 100 and 100; shorten"),
        (
            "total_epochs=2 optim.warmup_epochs=2.5",
            "config.optim.warmup_epochs must be less than config.total_epochs, got 2.5 and 2.0; shorten",
        ),
    ],
    "_milestones": [
        ("optim.power=3", "config.optim.power belongs to polynomial, got config.optim.schedule=constant; leave it at 2.0"),
        (
            "optim.milestone_factors=1,0.1",
            "config.optim.milestone_factors belongs to piecewise, got config.optim.schedule=constant",
        ),
        (
            "optim.schedule=piecewise optim.milestones=0.5,1 optim.milestone_factors=1",
            "config.optim.milestone_factors must give one for each of config.optim.milestones=(0.5, 1.0), got (1.0,)",
        ),
        ("optim.schedule=step optim.milestones=", "config.optim.milestones must be increasing and not empty, got ()"),
        ("optim.schedule=step optim.milestones=0.75,0.5", "must be increasing and not empty, got (0.75, 0.5)"),
        ("optim.schedule=step optim.milestones=0.5,0.5", "must be increasing and not empty, got (0.5, 0.5)"),
        (
            "optim.schedule=step optim.milestones=0.5,1",
            "must lie before the end of the run, 1 with config.optim.milestone_unit=fraction, got (0.5, 1.0)",
        ),
        (
            "optim.schedule=step optim.milestones=50,1234567 optim.milestone_unit=steps total_steps=1234567",
            "must lie before the end of the run, 1234567 with config.optim.milestone_unit=steps, got (50.0, 1234567.0)",
        ),
        (
            "optim.schedule=step optim.milestones=5,11 optim.milestone_unit=epochs total_epochs=10",
            "must lie before the end of the run, 10 with config.optim.milestone_unit=epochs",
        ),
        (
            "optim.schedule=step optim.milestones=0.5,0.75 optim.milestone_unit=steps",
            "config.optim.milestones in steps must be whole numbers, got (0.5, 0.75); round them",
        ),
    ],
    "_optimizer": [
        ("optim.nesterov=true optim.name=adam", "config.optim.nesterov needs config.optim.name=sgd, lars or muon, a mom"),
        ("optim.nesterov=true optim.momentum=0", "got sgd, 0.0 and 0.0; set config.optim.nesterov=false"),
        ("optim.nesterov=true optim.dampening=0.1", "got sgd, 0.9 and 0.1; set config.optim.nesterov=false"),
        ("optim.dampening=0.1 optim.name=adam", "config.optim.dampening belongs to sgd, got config.optim.name=adam; set"),
        ("optim.dampening=0.1 optim.name=lars", "config.optim.dampening belongs to sgd, got config.optim.name=lars; set"),
        ("optim.nesterov=true optim.momentum=0 optim.name=muon", "got muon, 0.0 and 0.0; set config.optim.nesterov=false"),
        (
            "optim.trust_coefficient=0.01",
            "config.optim.trust_coefficient belongs to lars, got config.optim.name=sgd; leave it at 0.001",
        ),
        ("optim.sgd_learning_rate=0.1", "config.optim.sgd_learning_rate belongs to muon, got config.optim.name=sgd; set it to"),
    ],
    "_unused": [
        ("optim.name=adam optim.momentum=0.95", "config.optim.momentum belongs to sgd, lars and muon, got 0.95 with"),
        ("optim.name=adamw optim.momentum=0", "config.optim.momentum belongs to sgd, lars and muon, got 0.0 with"),
        (
            "optim.beta1=0.8",
            "config.optim.beta1 belongs to adam, adamw and lamb, got 0.8 with config.optim.name=sgd; leave it at 0.9",
        ),
        ("optim.beta2=0.99 optim.name=lars", "config.optim.beta2 belongs to adam, adamw and lamb, got 0.99 with"),
        ("optim.epsilon=1e-7 optim.name=muon", "config.optim.epsilon belongs to adam, adamw and lamb, got 1e-07 with"),
        ("optim.epsilon_at=uncorrected", "config.optim.epsilon_at belongs to adam, adamw and lamb, got uncorrected with"),
    ],
    "_distill": [("distill.temperature=4", "config.distill has an effect with config.distill.weights alone, which is not set")],
    "_average": [
        (
            "swa.start=0.5 batch_norm.reestimate=true ema.decay=0.9",
            "only one of config.ema.decay and config.swa.start may be set, got 0.9 and 0.5",
        ),
        ("swa.start=0.5", "config.swa.start needs config.batch_norm.reestimate=true"),
        ("swa.every_steps=3", "config.swa has an effect with config.swa.start alone, which is not set"),
        (
            "swa.start=0.5 batch_norm.reestimate=true swa.final_learning_rate=0.1",
            "config.swa.final_learning_rate must be at most config.swa.learning_rate, from which a cycle falls to it, got 0.1",
        ),
    ],
    "_lookahead": [("optim.lookahead_rate=0.8", "belongs to config.optim.lookahead_steps, which is not set, got 0.8; leave")],
    "_decay": [
        (
            "optim.name=adamw optim.weight_decay=1e-4",
            "config.optim.name=adamw means decoupled decay, got config.optim.decay=coupled; set config.optim.decay=decoupled,",
        ),
        (
            "optim.name=muon optim.weight_decay=1e-4",
            "config.optim.name=muon means decoupled decay, got config.optim.decay=coupled; set config.optim.decay=decoupled",
        ),
        (
            "optim.name=lars optim.weight_decay=1e-4",
            "config.optim.name=lars means coupled decay of kernels alone, got config.optim.decay=coupled and "
            "config.optim.decay_mask=all; set them to coupled and kernels",
        ),
        (
            "optim.name=lamb optim.weight_decay=1e-4 optim.decay_mask=kernels",
            "config.optim.name=lamb means decoupled decay of kernels alone, got config.optim.decay=coupled",
        ),
        (
            "optim.name=lars optim.weight_decay=1e-4 optim.decay=decoupled optim.decay_mask=kernels",
            "got config.optim.decay=decoupled and config.optim.decay_mask=kernels; set them to coupled and kernels",
        ),
    ],
    "_clipping": [
        (
            "optim.clip_norm=1 optim.clip_adaptive=0.01",
            "only one of config.optim.clip_norm and config.optim.clip_adaptive may be set, got 1.0 and 0.01; set the other",
        ),
    ],
    "_rates": [
        ("optim.rates=head", "config.optim.rates must hold NAME=FACTOR with a factor of at least 0, got 'head'; for example"),
        ("optim.rates=head=-1", "with a factor of at least 0, got 'head=-1'"),
        ("optim.rates=head=nan", "with a factor of at least 0, got 'head=nan'"),
        ("optim.rates==1", "with a factor of at least 0, got '=1'"),
        ("optim.rates=head=1,stem*=0,head=2", "config.optim.rates must give each name once, got head=1, stem*=0, head=2"),
        (
            "optim.rates=head=1 optim.name=muon optim.fixed_norm=true",
            "config.optim.fixed_norm sets the norm of all hidden kernels, whatever config.optim.rates says",
        ),
        (
            "optim.rates=stem*=0 batch_norm.reestimate=true",
            "also those of what config.optim.rates=stem*=0 freezes; set it to false",
        ),
    ],
    "_init": [("init.normalize=data", "config.init.normalize belongs to config.init.weights, which is not set, got data")],
    "_best": [
        ("checkpoint.keep_best=1", "config.checkpoint.keep_best needs config.eval_every_steps and"),
        ("checkpoint.keep_best=1 eval_every_steps=10", "got 10 and 0; set both, or keep_best to 0"),
        ("checkpoint.keep_best=1 checkpoint.every_steps=10", "got 0 and 10; set both, or keep_best to 0"),
        (
            "checkpoint.keep_best=1 eval_every_steps=20 checkpoint.every_steps=30",
            "config.checkpoint.every_steps must be a multiple of config.eval_every_steps, got 30 and 20",
        ),
    ],
    "_compiler_options": [
        (
            "precision.compiler_options=xla_gpu_autotune_level",
            "must hold NAME=VALUE, the items of a list joined by +, got 'xla_",
        ),
        ("precision.compiler_options==1", "got '=1'; for example xla_gpu_autotune_level=0"),
        ("precision.compiler_options=a=1,b=2,a=3", "must set each option once, got a, b, a; join a list's items by +"),
    ],
    "_mixing": [
        (
            "data.mix=mixup",
            "config.data.mix must hold only mixup:ALPHA and cutmix:ALPHA with an alpha above 0, got 'mixup'",
        ),
        ("data.mix=cutmix:0", "with an alpha above 0, got 'cutmix:0'; for example cutmix:1.0"),
        ("data.mix=mixup:inf", "with an alpha above 0, got 'mixup:inf'; for example mixup:1.0"),
        ("data.mix=cutmx:1", "got 'cutmx:1'; for example cutmix:1.0"),
        ("data.mix=mixup:1,mixup:0.2", "config.data.mix must name each rule once, got mixup:1,mixup:0.2; keep one of each"),
        (
            "data.mix_probability=0.5",
            "config.data.mix_probability belongs to config.data.mix, which is empty, got 0.5; leave",
        ),
        ("data.mix=mixup:1 data.batch_size=126 optim.accumulate=2", "must be even, got 63; change one of them"),
    ],
    "_loss": [
        (
            "loss.target_threshold=0.2",
            "config.loss.target_threshold belongs to sigmoid, got config.loss.name=softmax; set",
        ),
    ],
    "_sizes": [
        ("data.sizes=160", "must hold SIZE@FRACTION with fractions that rise from 0 and stay below 1, got 160; for example"),
        ("data.sizes=8@0.1", "stay below 1, got 8@0.1"),
        ("data.sizes=8@0,9@0.5,10@0.5", "got 8@0,9@0.5,10@0.5"),
        ("data.sizes=8@0,9@1", "got 8@0,9@1"),
        ("data.sizes=8@nan", "got 8@nan"),
        ("data.sizes=0@0", "got 0@0"),
        ("data.sizes=8@0,8@0.5", "must hold at most 8 sizes, each once, got 8@0,8@0.5"),
        ("data.sizes=" + ",".join(f"{8 + n}@{n / 10}" for n in range(9)), "must hold at most 8 sizes, each once"),
        ("data.sizes=8@0 data.normalize=per_pixel_mean", "a mean that has no size, got config.data.normalize=per_pixel_mean"),
    ],
    "_augmentations": [
        ("data.augment=pad_crop:5 data.sizes=5@0,8@0.5", "pad_crop:5 must pad by less than config.data.sizes, got 5"),
        ("data.augment=scale_jitter_crop:7:9 data.sizes=5@0,8@0.5", "must start at config.data.sizes or above, got 8"),
        (
            "data.augment=flp",
            "flip, alternating_flip, cutout:PIXELS, random_erasing:PROBABILITY, got 'flp'; did you mean flip?",
        ),
        ("data.augment=crop:4", "got 'crop:4'; did you mean pad_crop:PIXELS?"),
        ("data.augment=flip:1", "flip takes no argument, got 'flip:1'; write flip"),
        ("data.augment=pad_crop", "pad_crop needs a number of pixels, got 'pad_crop'; write pad_crop:4"),
        ("data.augment=pad_crop:0", "pad_crop needs a number of pixels, got 'pad_crop:0'"),
        ("data.augment=pad_crop:-1", "pad_crop needs a number of pixels, got 'pad_crop:-1'"),
        ("data.augment=pad_crop:8 data.image_size=8", "pad_crop:8 must pad by less than config.data.image_size, got 8"),
        ("data.augment=pad_crop:4:4", "pad_crop needs a number of pixels, got 'pad_crop:4:4'; write pad_crop:4"),
        ("data.augment=color_jitter:1.5", "color_jitter needs a strength up to 1, got 'color_jitter:1.5'"),
        ("data.augment=color_jitter:nan", "color_jitter needs a strength up to 1, got 'color_jitter:nan'"),
        (
            "data.augment=pca_lighting:x",
            "pca_lighting needs a standard deviation, got 'pca_lighting:x'; write",
        ),
        (
            "data.augment=rand_augment:2",
            "needs a number of operations from 1 and a level from 0 to 30, got 'rand_augment:2'; write",
        ),
        ("data.augment=rand_augment:0:9", "got 'rand_augment:0:9'; write rand_augment:2:9"),
        (
            "data.augment=random_erasing:1.5",
            "random_erasing needs a probability, got 'random_erasing:1.5'; write random_erasing:0.25",
        ),
        ("data.augment=flip,auto_augment", "auto_augment changes pixels and must come before flip"),
        ("data.augment=flip,color_jitter:0.4", "color_jitter changes pixels and must come before flip"),
        (
            "data.augment=scale_jitter_crop:480:256",
            "needs the smallest and the largest shorter side in pixels, got 'scale_jitter_crop:480:256'; write",
        ),
        ("data.augment=scale_jitter_crop:9:12 data.image_size=10", "must start at config.data.image_size or above, got 10"),
        (
            "data.augment=scale_jitter_crop:9:12,flip,random_resized_crop",
            "must cut one part out of a file, got scale_jitter_crop and random_resized_crop",
        ),
        ("data.augment=pad_crop:1,flip,pad_crop:2", "must name each augmentation once, got pad_crop:1,flip,pad_crop:2"),
    ],
}

POSSIBLE = [
    "total_epochs=0.5",
    "model.name=cifar_resnet8 model.kwargs.width=4 model.kwargs.shortcut=C",
    "model.name=tutorial_cnn",
    "optim.accumulate=128",
    "batch_norm.group_size=128",
    "batch_norm.group_size=32 optim.accumulate=4",
    "optim.warmup_steps=99",
    "optim.warmup_fraction=0.99",
    "total_epochs=2 optim.warmup_epochs=1.5",
    "total_epochs=2 optim.warmup_steps=5000",
    "optim.schedule=step optim.milestones=0.5,0.999",
    "optim.schedule=step optim.milestones=50,99 optim.milestone_unit=steps",
    "optim.schedule=step optim.milestones=2.5,9.5 optim.milestone_unit=epochs total_epochs=10",
    "optim.schedule=cosine optim.milestones=",
    "optim.schedule=piecewise optim.milestones=0.5,1 optim.milestone_factors=1,0",
    "optim.lookahead_steps=5 optim.lookahead_rate=0.8 optim.sharpness=0.05 ema.decay=0.9",
    "swa.start=0 batch_norm.reestimate=true swa.every_steps=3 swa.learning_rate=0.1 swa.final_learning_rate=0.01",
    "optim.nesterov=true",
    "optim.dampening=0.1",
    "optim.name=adamw optim.weight_decay=1e-4 optim.decay=decoupled",
    "optim.name=adamw",
    "optim.name=adam optim.weight_decay=1e-4",
    "optim.name=lamb optim.epsilon=1e-6 optim.weight_decay=1e-4 optim.decay=decoupled optim.decay_mask=kernels",
    "optim.name=lars",
    "optim.name=lars optim.trust_coefficient=0.02 optim.nesterov=true optim.weight_decay=1e-4 optim.decay_mask=kernels",
    "optim.name=muon optim.momentum=0",
    "optim.name=muon optim.nesterov=true optim.sgd_learning_rate=0.5 optim.weight_decay=1e-4 optim.decay=decoupled",
    "optim.clip_adaptive=0.01",
    "optim.clip_adaptive=0.01 optim.name=muon",
    "checkpoint.keep_best=1 eval_every_steps=10 checkpoint.every_steps=20",
    "checkpoint.every_steps=30 eval_every_steps=20",
    "data.augment=flip,pad_crop:7 data.image_size=8",
    "data.augment=",
]


def change(text, config=VALID):
    return apply_overrides(config, text.split())


def refusal(config):
    with pytest.raises(ConfigError) as caught:
        validate(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("rule", "text", "says"), [(rule, *case) for rule, cases in IMPOSSIBLE.items() for case in cases])
def test_what_is_impossible_is_refused_by_its_rule(rule, text, says):
    # `model.name` is looked up as soon as it is set, so that its arguments can be read.
    if text.startswith("model.name="):
        config = dataclasses.replace(VALID, model=ModelConfig(text.partition("=")[2]))
    else:
        config = change(text)
    assert says in refusal(config)
    one = next(one for one in _RULES if one.__name__ == rule)
    with pytest.raises(ConfigError):
        one(config)
    for earlier in _RULES[: _RULES.index(one)]:
        earlier(config)


def test_every_rule_has_a_case():
    assert {rule.__name__ for rule in _RULES} == IMPOSSIBLE.keys()


@pytest.mark.parametrize("text", POSSIBLE)
def test_what_is_possible_passes(text):
    config = change(text)
    assert validate(config) is config


def test_two_durations_in_a_file_are_refused():
    assert "must be set, got 100 and 3; set one with" in refusal(Config(total_steps=100, total_epochs=3))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            ModelConfig(kwargs={"widht": 4}),
            "config.model.kwargs.widht is not a configuration key; did you mean config.model.kwargs.w",
        ),
        (
            ModelConfig(kwargs={"width": "4"}),
            "config.model.kwargs.width must be an integer at least 1, got '4'; set it with --config.model.kwargs",
        ),
        (ModelConfig(kwargs={"width": True}), "config.model.kwargs.width must be an integer at least 1, got True"),
        (
            ModelConfig(kwargs={"repeat": "Loop"}),
            "config.model.kwargs.repeat must be one of loop, scan, scan_remat, got 'Loop'",
        ),
        (
            ModelConfig("tutorial_cnn", {"width": 4}),
            "config.model.kwargs.width cannot be set: model tutorial_cnn has no arguments",
        ),
        (ModelConfig("cifar_plain20", {"shortcut": "A"}), "config.model.kwargs.shortcut is not a configuration key"),
        (
            ModelConfig(kwargs=[4]),
            "config.model.kwargs must be a dictionary, got [4]; set it with --config.model.kwargs.NAME=VALUE",
        ),
        (ModelConfig(name=20), "config.model.name must be text, got 20"),
    ],
)
def test_a_files_model_is_checked_against_its_builder(model, says):
    assert says in refusal(dataclasses.replace(VALID, model=model))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 1.5}, "config.seed must be an integer at least 0 and at most 4294967295, got 1.5"),
        ({"total_steps": True}, "config.total_steps must be an integer at least 1 or none, got True"),
        (
            {"optim": OptimConfig(learning_rate=float("nan"))},
            "config.optim.learning_rate must be a number greater than 0, got nan",
        ),
        ({"optim": OptimConfig(learning_rate=10**400)}, "config.optim.learning_rate must be a number greater than 0, got 1000"),
        (
            {"optim": OptimConfig(milestones=[0.5])},
            "config.optim.milestones must be a tuple, each item a number at least 0, got [0.5]",
        ),
        ({"optim": {"name": "sgd"}}, "config.optim must be a resflax.config.OptimConfig, got {'name': 'sgd'}"),
        ({"data": None}, "config.data must be a resflax.config.DataConfig, got None; make one"),
    ],
)
def test_a_files_values_are_checked_as_those_of_the_command_line(changes, says):
    assert says in refusal(dataclasses.replace(VALID, **changes))


def test_augmentations_are_those_of_the_device():
    from resflax.data import augment

    assert AUGMENTATIONS.keys() - set(ON_HOST) == augment.AUGMENTATIONS.keys()
    assert {name for name, known in AUGMENTATIONS.items() if known.of_pixels} == augment.OF_PIXELS
    for name, known in AUGMENTATIONS.items():
        text = known.example or name
        assert text.partition(":")[0] == known.usage.partition(":")[0] == name
        validate(change(f"data.augment={text}"))
        if name not in ON_HOST:
            augment.make_augmentation((text,))


def test_rules_of_mixing_are_those_of_the_device():
    from resflax.data import mixing

    assert MIXING.keys() == mixing.RULES.keys()
    for usage in MIXING.values():
        validate(change(f"data.mix={usage.replace('ALPHA', '0.2')}"))
