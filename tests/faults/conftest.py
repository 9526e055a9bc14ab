"""The ranks of the rows D."""

from tests.torch_moe.distributed.conftest import four as four
from tests.torch_moe.distributed.conftest import two as two
