"""Cross-entropies over a large vocabulary."""

import torch
from torch import Tensor

# Words whose logits are held at once. With fewer, the gradient of the vocabulary is passed over
# more often (128: 16 % slower on two cores).
CHUNK = 512


class LinearCrossEntropy(torch.autograd.Function):
    """Σ_n −log softmax(x W_1ᵀ + y W_2ᵀ + …)[n, word n] without the logits of all words.

    Logits over a vocabulary and their gradient are a language model's largest tensors. Here they
    live for a chunk of words, whose gradient is computed at once (as in the Liger kernels, Hsu et
    al. 2024).
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, words: Tensor, *factors: Tensor
    ) -> Tensor:
        """words (N); factors: x (N, D), W_1 (V, D), y, W_2, …"""
        device = words.device.type
        dtype = factors[0].dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        wanted = ctx.needs_input_grad[1:]
        gradients = [torch.zeros_like(x) if want else None for x, want in zip(factors, wanted)]
        factors = [x.to(dtype) for x in factors]
        inputs, matrices = factors[::2], factors[1::2]
        total = torch.zeros((), device=words.device)
        with torch.autocast(device, enabled=False):
            for start in range(0, len(words), CHUNK):
                part = slice(start, start + CHUNK)
                target = words[part, None]
                logits = inputs[0][part] @ matrices[0].T
                for x, matrix in zip(inputs[1:], matrices[1:]):
                    logits.addmm_(x[part], matrix.T)
                log_p = logits.log_softmax(-1, dtype=torch.float32)
                total -= log_p.gather(1, target).sum()
                if any(wanted):
                    error = log_p.exp_()  # softmax − one-hot
                    error.scatter_add_(1, target, error.new_full(target.shape, -1))
                    add_gradients(gradients, error.to(dtype), inputs, matrices, part)
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, scale: Tensor) -> tuple:
        gradients, ctx.gradients = ctx.gradients, None  # they are scaled in place
        if gradients is None:
            raise RuntimeError("linear_cross_entropy: its gradients are freed after one backward")
        return None, *(None if x is None else x.mul_(scale) for x in gradients)


def add_gradients(
    gradients: list, error: Tensor, inputs: list, matrices: list, part: slice
) -> None:
    """Add one chunk's share of the gradients of x, W_1, y, W_2, …; products of half precision are
    summed in full precision."""
    for i, (x, matrix) in enumerate(zip(inputs, matrices)):
        of_input, of_matrix = gradients[2 * i : 2 * i + 2]
        if of_input is not None:
            of_input[part] = error @ matrix
        if of_matrix is not None and of_matrix.dtype == error.dtype:
            of_matrix.addmm_(error.T, x[part])
        elif of_matrix is not None:
            of_matrix += error.T @ x[part]


def linear_cross_entropy(words: Tensor, *factors: Tensor) -> Tensor:
    """−log p of words (N), summed, under softmax(x W_1ᵀ + y W_2ᵀ + …); see LinearCrossEntropy."""
    if not torch.is_grad_enabled():
        factors = [x.detach() for x in factors]
    return LinearCrossEntropy.apply(words, *factors)


def bow_loss(
    logits: Tensor, words: Tensor, word_beat: Tensor, weights: Tensor | None = None
) -> Tensor:
    """−log p of a bag of words, summed: words (n) of beats word_beat (n), each times its weight,
    under logits (M, V) per beat (Zhao et al. 2017)."""
    log_p = logits.float().log_softmax(-1)
    log_p = log_p.flatten().index_select(0, word_beat * log_p.shape[1] + words)
    return -(log_p if weights is None else log_p * weights).sum()


def future_words(
    words: Tensor, word_beat: Tensor, beats: Tensor, beat_mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The words of all later sentences for each beat: words (n), the beats (n), and 1 / the
    number of later sentences (n).

    words and word_beat (N): as in a batch; beats (M): places in B·T; beat_mask (B, T).
    """
    T = beat_mask.shape[1]
    story, position = beats[word_beat] // T, beats[word_beat] % T
    last = beat_mask.sum(1)[story] - 1
    distance = torch.arange(1, T, device=words.device)[:, None]  # T-1, 1
    exists = position >= distance  # T-1, N
    weights = 1 / (last - position + distance)
    earlier_beat = word_beat - distance
    return words.expand_as(exists)[exists], earlier_beat[exists], weights[exists]
