"""Two optimizers as one: shared groups, one schedule, and a state that can be taken up again."""

import copy

import torch
from torch import nn
from torch.optim import AdamW, Muon

from no_time_to_train.training.optimizer import MuonWithAdamW, build_optimizer


def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 5))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def combined(net: nn.Sequential) -> MuonWithAdamW:
    matrices = [parameter for parameter in net.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in net.parameters() if parameter.ndim != 2]
    return MuonWithAdamW(matrices, others, learning_rate=0.02, adamw_learning_rate=0.01)


def test_both_parts_step_as_they_would_alone() -> None:
    net, alone = model(), model()
    train(net, combined(net), 3)
    muon = Muon(
        [p for p in alone.parameters() if p.ndim == 2], lr=0.02, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
    )
    adamw = AdamW([p for p in alone.parameters() if p.ndim != 2], lr=0.01, weight_decay=0.05, betas=(0.9, 0.98))
    for step in range(3):
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        for part in (muon, adamw):
            part.zero_grad()
        alone(x).square().mean().backward()
        muon.step()  # type: ignore[no-untyped-call] # of torch
        adamw.step()
    for mine, theirs in zip(net.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_a_training_taken_up_again_goes_on_as_if_it_had_not_stopped() -> None:
    whole, stopped = model(), model()
    train(whole, combined(whole), 6)
    optimizer = combined(stopped)
    train(stopped, optimizer, 3)
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(stopped.state_dict())
    resumed = model()
    resumed.load_state_dict(weights)
    again = combined(resumed)
    again.load_state_dict(state)
    train(resumed, again, 3, first=3)
    for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_the_schedule_rises_and_falls_for_both() -> None:
    net = model()
    setup = build_optimizer(net, learning_rate=0.02, adamw_learning_rate=0.01, warmup_steps=10, max_steps=100)
    optimizer, schedule = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    muon, adamw = (torch.tensor(column) for column in zip(*rates, strict=True))
    torch.testing.assert_close(muon, 2 * adamw)
    assert muon[0] < 0.003
    assert int(muon.argmax()) in (9, 10)
    assert muon[-1] < 1e-4
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [
        group["lr"] for group in optimizer.param_groups
    ]


def test_matrices_go_to_muon_and_narrow_or_named_ones_do_not() -> None:
    net = nn.ModuleDict(
        {
            "linear": nn.Linear(8, 8),
            "narrow": nn.Linear(8, 3),
            "token": nn.Embedding(6, 8),
            "frozen": nn.Linear(8, 8).requires_grad_(False),
        }
    )
    optimizer = build_optimizer(net, learning_rate=1, adamw_learning_rate=1, warmup_steps=0, max_steps=1)["optimizer"]
    muon, adamw = ([p for group in part.param_groups for p in group["params"]] for part in optimizer.parts)
    assert [p is net["linear"].weight for p in muon] == [True]
    assert len(adamw) == 4
