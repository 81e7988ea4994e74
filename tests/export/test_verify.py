"""The Equinox model that a file is compared with is computed in float32 on every device."""

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
from jax import lax

from no_time_to_train.export.verify import compiled_tokens
from no_time_to_train.jax_models import load_eqx_encoder
from no_time_to_train.parity.backends import _compiled_trace
from tests.golden_files import golden


def test_products_are_in_full_precision() -> None:
    encoder = load_eqx_encoder(golden("vit_mlp"))
    for compute in (compiled_tokens, _compiled_trace):
        traced, *_ = eqx.filter_make_jaxpr(compute)(encoder, jnp.zeros((1, 3, 32, 32)))
        precisions = [
            equation.params["precision"]
            for equation in _equations(traced.jaxpr)
            if equation.primitive.name in ("dot_general", "conv_general_dilated")
        ]
        assert len(precisions) > 8
        assert set(precisions) == {(lax.Precision.HIGHEST, lax.Precision.HIGHEST)}


def _equations(jaxpr: jax.extend.core.Jaxpr) -> list[jax.extend.core.JaxprEqn]:
    """Return all equations, those inside compiled functions too."""
    found = []
    for equation in jaxpr.eqns:
        found.append(equation)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += _equations(inner)
    return found
