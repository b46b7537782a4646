import pytest
import torch

from medsam_adapt.inference.class_scores import decide, logits_of, probabilities_of


@pytest.mark.parametrize("overlapping", [False, True])
def test_the_decision_is_the_first_of_the_highest_scores(overlapping):
    scores = torch.randint(-3, 4, (2, 5, 9, 8), generator=torch.Generator().manual_seed(0)).float()
    expected = (scores > 0) if overlapping else scores.argmax(dim=1, keepdim=True)
    found = decide(scores, overlapping)
    assert found.dtype == torch.uint8
    assert torch.equal(found, expected.to(torch.uint8))


@pytest.mark.parametrize("overlapping", [False, True])
def test_logits_of_probabilities_have_these_probabilities(overlapping):
    logits = 3 * torch.randn(2, 5, 9, 8, generator=torch.Generator().manual_seed(0))
    chances = probabilities_of(logits, overlapping)
    assert overlapping or torch.allclose(chances.sum(dim=1), torch.ones(2, 9, 8))
    torch.testing.assert_close(probabilities_of(logits_of(chances, overlapping), overlapping), chances)


@pytest.mark.parametrize("overlapping", [False, True])
def test_no_probability_is_taken_as_smaller_than_the_smallest(overlapping):
    certain = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    found = probabilities_of(logits_of(certain, overlapping, 1e-4), overlapping).flatten()
    torch.testing.assert_close(found, torch.tensor([1 - 1e-4, 1e-4]), rtol=1e-3, atol=0)
    assert logits_of(certain, overlapping).isinf().any()
