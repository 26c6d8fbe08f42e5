import monai.networks.nets
import pytest
import torch


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SwinUNETR", {"in_channels": 1, "out_channels": 2, "feature_size": 12}),
        ("UNETR", {"in_channels": 1, "out_channels": 2, "img_size": 64, "feature_size": 8}),
    ],
)
def test_the_transformers_that_bundles_use_need_nothing_that_is_not_installed(
    name: str, arguments: dict[str, int]
) -> None:
    network = getattr(monai.networks.nets, name)(**arguments).eval()
    with torch.no_grad():
        assert tuple(network(torch.zeros(1, 1, 64, 64, 64)).shape) == (1, 2, 64, 64, 64)
