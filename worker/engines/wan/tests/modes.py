"""Every way to render: the three models, one of them with and without an image."""

import pytest

MODES = {
    "ti2v-5B text": ("ti2v-5B", False),
    "ti2v-5B image": ("ti2v-5B", True),
    "t2v-A14B": ("t2v-A14B", False),
    "i2v-A14B": ("i2v-A14B", True),
}
every_mode = pytest.mark.parametrize(("model", "with_image"), MODES.values(), ids=MODES.keys())
every_format = pytest.mark.parametrize("compute", ["bfloat16", "float32"])
