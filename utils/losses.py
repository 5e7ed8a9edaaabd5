"""Cross-entropy over a large vocabulary without holding its logits."""

import torch


class WordLoss(torch.autograd.Function):
    """Cross-entropy of words under softmax(x W_1ᵀ + y W_2ᵀ + …), without holding the logits of all
    words.

    Logits over a vocabulary, their softmax and their gradient are the largest tensors of a language
    model by far. Here they live for a chunk of rows, whose gradient is taken while its logits are
    at hand, so that nothing is computed twice (as in the Liger kernels, Hsu et al. 2024). Rows that
    several words share are one chunk: they are few.
    """

    # rows; with fewer, the gradient of W is passed over more often (128: 16 % slower on two cores)
    CHUNK = 512

    @classmethod
    def of(cls, words, row, weight, *pairs):
        """What `forward` returns; no gradient is computed where none is asked for."""
        return cls.apply(
            words, row, weight, *(pairs if torch.is_grad_enabled() else [x.detach() for x in pairs])
        )

    @staticmethod
    def forward(ctx, words, row, weight, *pairs):
        """Σ_n weight_n · −log softmax(row of word n)[word n], and each row's share of it, which has
        no gradient.

        words (N); row (N), or None where row n is word n's; weight (N) or (); pairs: x (rows, D),
        W_1 (V, D), y, W_2 ….
        """
        rows, device = len(pairs[0]), words.device
        ctx.wanted = ctx.needs_input_grad[3:]
        dtype = (
            torch.get_autocast_dtype(device.type)
            if torch.is_autocast_enabled(device.type)
            else pairs[0].dtype
        )
        weight = weight.float().expand(len(words))
        # which words are of a chunk is known where each has its row
        chunk = WordLoss.CHUNK if row is None else rows
        row = torch.arange(rows, device=device) if row is None else row
        shares = torch.zeros(rows, device=device)
        weights = shares.index_add(0, row, weight)  # of the rows
        # fp16 has no room for errors divided by the number of words before its scaler has
        # multiplied them.
        ctx.unit = weights.max().clamp(min=1e-30) if dtype == torch.float16 else None
        gradients = [torch.empty_like(x) if want else None for x, want in zip(pairs, ctx.wanted)]
        with torch.autocast(device.type, enabled=False):
            cast = [x.to(dtype) for x in pairs]
            table = torch.empty(min(chunk, rows), len(pairs[1]), dtype=dtype, device=device)
            log_p = torch.empty(table.shape, device=device)
            for start in range(0, rows, chunk):
                here = slice(start, start + chunk)
                of = here if chunk < rows else slice(None)  # the words of these rows
                inputs, matrices = [x[here] for x in cast[::2]], cast[1::2]
                logits = torch.mm(inputs[0], matrices[0].T, out=table[: len(inputs[0])])
                for x, matrix in zip(inputs[1:], matrices[1:]):
                    logits.addmm_(x, matrix.T)
                logs = torch.log_softmax(logits, 1, torch.float32, out=log_p[: len(logits)])
                place = row[of] - start
                at = place * logs.shape[1] + words[of]  # in the flattened table
                shares[here].index_add_(0, place, -weight[of] * logs.flatten().index_select(0, at))
                if any(ctx.wanted):
                    # The gradient of a row is its weight times (softmax − share of each word); the
                    # weights go to the narrow side of the products, since every pass over the table
                    # costs.
                    logs.exp_().flatten().index_add_(
                        0, at, -weight[of] / weights[row[of]].clamp(min=1e-30)
                    )
                    error = logs if dtype == logs.dtype else logits.copy_(logs)
                    of_rows = (
                        weights[here, None] if ctx.unit is None else weights[here, None] / ctx.unit
                    )
                    WordLoss.add_gradients(
                        gradients, error, inputs, matrices, of_rows.to(dtype), here
                    )
        ctx.gradients = gradients
        ctx.mark_non_differentiable(shares)
        return shares.sum(), shares

    @staticmethod
    def add_gradients(gradients, error, inputs, matrices, weights, here):
        """What the rows `here` add to the gradients of x, W_1, y, W_2, … ."""
        for of_x, of_matrix, x, matrix in zip(gradients[::2], gradients[1::2], inputs, matrices):
            if of_x is not None:
                of_x[here] = error @ matrix * weights
            if of_matrix is not None and error.dtype == of_matrix.dtype:
                # the first only overwrites
                of_matrix.addmm_(error.T, x * weights, beta=min(1, here.start))
            elif of_matrix is not None:  # products of half precision are added in full
                (of_matrix.add_ if here.start else of_matrix.copy_)(error.T @ (x * weights))

    @staticmethod
    def backward(ctx, scale, _):
        gradients, ctx.gradients = ctx.gradients, None  # they are scaled in place: once
        if gradients is None:
            raise RuntimeError(
                "WordLoss: a second backward pass; expected one, its gradients are gone"
            )
        if ctx.unit is not None:
            scale = scale * ctx.unit
        if scale.device.type != "cpu" or scale != 1:  # a GPU would have to wait to know
            gradients = [None if x is None else x.mul_(scale) for x in gradients]
        return None, None, None, *gradients


def bow_losses(tellers, table, num_tokens):
    """−log p(words, in no order | what is known at a beat).

    table: the words' output embeddings (V, D). tellers: {name: (what is known (M, D), its weight,
    words (n), the beat of each, how much each counts)}. Returns the loss, weighted and divided by
    num_tokens, and {name: its summand, not weighted}, which have no gradient.
    """
    known, weights, words, word_beats, counts = zip(*tellers.values())
    M = len(known[0])
    row = torch.cat([beat + i * M for i, beat in enumerate(word_beats)])
    weight = torch.cat([weight * count / num_tokens for weight, count in zip(weights, counts)])
    known = torch.cat(known)  # tellers · M, D
    loss, shares = WordLoss.of(torch.cat(words), row, weight, known, table)
    sums = shares.view(len(tellers), M).sum(1) * num_tokens
    return loss, {name: total / tellers[name][1] for name, total in zip(tellers, sums)}


def future_words(words, word_beat, beats, beat_mask):
    """The words of the sentences after each beat: words (n), their beats (n), 1 / number of
    those sentences."""
    T = beat_mask.shape[1]
    story, place = (beats // T)[word_beat], (beats % T)[word_beat]
    last = beat_mask.sum(1)[story] - 1
    later_words, before, counts = [], [], []
    for back in range(1, T):
        later = place >= back
        later_words.append(words[later])
        before.append(word_beat[later] - back)  # the beats of a story stand side by side
        counts.append(1 / (last - place + back)[later])
    return [torch.cat(x) if x else words[:0] for x in (later_words, before, counts)]
