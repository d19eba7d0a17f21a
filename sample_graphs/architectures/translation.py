"""Language translation: recurrent sequence-to-sequence networks with attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VOCABULARY = 32_000
# Decoders score a short list of likely target words rather than the whole vocabulary.
SHORT_LIST = 8_000


class GatedRecurrentScorer(nn.Module):
    """GRU encoder and decoder with additive attention; scores given target sentences.

    The decoder reads the whole target at once, attends to the source from every position and predicts the next word.
    """

    def __init__(self, embedding: int = 512, hidden: int = 512) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(VOCABULARY, embedding)
        self.target_embedding = nn.Embedding(VOCABULARY, embedding)
        self.encoder_both_ways = nn.GRU(embedding, hidden // 2, bidirectional=True)
        self.encoder = nn.GRU(hidden, hidden)
        self.decoder = nn.GRU(embedding, hidden, num_layers=2)
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden, bias=False)
        self.energy = nn.Linear(hidden, 1, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden)
        self.output = nn.Linear(hidden, SHORT_LIST)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Log-probabilities [target length, batch, words] of the next words; inputs are [length, batch]."""
        memory, _ = self.encoder_both_ways(self.source_embedding(source))
        memory, _ = self.encoder(memory)
        states, _ = self.decoder(self.target_embedding(target))
        memory = memory.transpose(0, 1)
        states = states.transpose(0, 1)
        sums = torch.tanh(self.query(states).unsqueeze(2) + self.key(memory).unsqueeze(1))
        weights = torch.softmax(self.energy(sums).squeeze(3), dim=2)
        context = torch.matmul(weights, memory)
        combined = torch.tanh(self.combine(torch.cat([states, context], dim=2)))
        return torch.log_softmax(self.output(combined), dim=2).transpose(0, 1)


class LongShortTermCell(nn.Module):
    """One LSTM step written out in elementary operations."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.input_gates = nn.Linear(inputs, 4 * hidden)
        self.hidden_gates = nn.Linear(hidden, 4 * hidden, bias=False)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The next hidden and cell states."""
        gates: Tensor = self.input_gates(x) + self.hidden_gates(hidden)
        admit, forget, candidate, output = torch.split(gates, self.hidden, dim=1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(admit) * torch.tanh(candidate)
        return torch.sigmoid(output) * torch.tanh(cell), cell


class LongShortTermTranslator(nn.Module):
    """LSTM encoder and a decoder unrolled for a few greedy steps, with multiplicative attention."""

    def __init__(self, embedding: int = 512, hidden: int = 512, layers: int = 2, steps: int = 6) -> None:
        super().__init__()
        self.steps = steps
        self.source_embedding = nn.Embedding(VOCABULARY, embedding)
        self.target_embedding = nn.Embedding(SHORT_LIST, embedding)
        self.encoder = nn.LSTM(embedding, hidden, num_layers=layers)
        self.cells = nn.ModuleList(
            LongShortTermCell(embedding + hidden if layer == 0 else hidden, hidden) for layer in range(layers)
        )
        self.align = nn.Linear(hidden, hidden, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden, bias=False)
        self.output = nn.Linear(hidden, SHORT_LIST)

    def forward(self, source: Tensor, first_word: Tensor) -> tuple[Tensor, Tensor]:
        """Words [steps, batch] and their log-probabilities; source is [length, batch], first_word is [batch]."""
        memory, (hidden, cell) = self.encoder(self.source_embedding(source))
        memory = memory.transpose(0, 1)
        keys = memory.transpose(1, 2)
        hiddens = list(hidden.unbind(0))
        cells = list(cell.unbind(0))
        word = first_word
        attended = torch.zeros_like(hiddens[-1])
        words: list[Tensor] = []
        scores: list[Tensor] = []
        for _ in range(self.steps):
            x = torch.cat([self.target_embedding(word), attended], dim=1)
            for layer, step in enumerate(self.cells):
                hiddens[layer], cells[layer] = step(x, hiddens[layer], cells[layer])
                x = hiddens[layer]
            weights = torch.softmax(torch.matmul(self.align(x).unsqueeze(1), keys), dim=2)
            context = torch.matmul(weights, memory).squeeze(1)
            attended = torch.tanh(self.combine(torch.cat([x, context], dim=1)))
            score = torch.log_softmax(self.output(attended), dim=1)
            word = score.argmax(dim=1)
            words.append(word)
            scores.append(score)
        return torch.stack(words), torch.stack(scores)
