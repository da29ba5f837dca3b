import dataclasses

from resflax.config import load_config
from resflax.config.rows import shortened, with_data


def test_a_row_cut_short_differs_in_its_length_alone():
    row, _ = load_config("zagoruyko2016_wrn:wrn16_4")
    short = shortened(row)
    assert (row.total_steps, row.total_epochs, short.total_steps, short.total_epochs) == (None, 200, 782, None)
    lengths = ("total_steps", "total_epochs", "log_every_steps", "eval_every_steps", "checkpoint")
    assert dataclasses.replace(short, **{name: getattr(row, name) for name in lengths}) == row


def test_a_row_on_other_data_differs_in_their_name_alone():
    row, _ = load_config("hu2018_se:se_wrn16_8")
    other, _ = load_config("hu2018_se:se_wrn16_8_cifar100")
    assert other == with_data(row, "cifar100") != row
    assert dataclasses.replace(other, data=dataclasses.replace(other.data, name="cifar10")) == row
