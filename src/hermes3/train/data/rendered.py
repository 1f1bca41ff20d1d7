"""Conversations as numbers: ids, and the weight of the loss on each. The renderer is that of serving."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np

from hermes3.prompt.chatml import Segment, Template, render
from hermes3.prompt.tools import CallOrder
from hermes3.tokenizer import Tokenizer
from hermes3.train.data.conversation import Conversation, Preference
from hermes3.train.examples import Example, Pair

Run = tuple[list[int], float]  # ids that belong together, and their weight


class Renderer:
    """Makes examples and pairs for one model.

    Args:
        tokenizer: the model's.
        template: how its prompts differ from plain ChatML.
        call_order: which key of a call comes first.

    Attributes:
        tokenizer: the model's.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: Template, *, call_order: CallOrder = "name"
    ) -> None:
        self.tokenizer = tokenizer
        self._template = template
        self._call_order: CallOrder = call_order

    def segments(self, conversation: Conversation) -> list[Segment]:
        """The text; what the assistant writes is marked as trained.

        Raises:
            RequestError: it cannot be rendered.
        """
        return render(
            conversation.messages,
            template=self._template,
            add_generation_prompt=False,
            tools=conversation.tools if conversation.shows_tools else (),
            call_order=self._call_order,
        )

    def runs(self, conversation: Conversation) -> list[Run]:
        """Ids by turns: what stands before an answer, the answer with its ``<|im_end|>``, and so on in turn.

        Raises:
            RequestError: as ``segments``.
        """
        return list(self._runs(conversation))

    def _runs(self, conversation: Conversation) -> Iterator[Run]:
        weights = (
            weight
            for message, weight in zip(conversation.messages, conversation.weights, strict=True)
            if message.role == "assistant"
        )
        for is_trained, group in groupby(self.segments(conversation), lambda segment: segment.is_trained):
            yield self.tokenizer.encode_segments(group), next(weights) if is_trained else 0.0

    def example(self, conversation: Conversation) -> Example:
        """Ids and weights of a conversation.

        Raises:
            RequestError: as ``segments``.
        """
        return _example(self._runs(conversation))

    def pair(self, preference: Preference) -> Pair:
        """A prompt, with the header of the answer, and the two answers.

        Raises:
            RequestError: as ``segments``.
        """
        shared = preference.chosen.messages[: preference.n_shared]
        n_prompt = 2 * sum(message.role == "assistant" for message in shared) + 1
        chosen, rejected = self.runs(preference.chosen), self.runs(preference.rejected)
        return Pair(_ids(chosen[:n_prompt]), _example(chosen[n_prompt:]), _example(rejected[n_prompt:]))

    def rendered(self, sample: Conversation | Preference) -> Example | Pair:
        """An example or a pair, whichever it is.

        Raises:
            RequestError: as ``segments``.
        """
        return self.pair(sample) if isinstance(sample, Preference) else self.example(sample)


def _example(runs: Iterable[Run]) -> Example:
    given = list(runs)
    weights = [np.full(len(ids), weight, np.float32) for ids, weight in given]
    return Example(_ids(given), np.concatenate(weights))


def _ids(runs: Sequence[Run]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array([token for ids, _ in runs for token in ids], np.int32)
