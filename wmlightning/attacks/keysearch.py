"""Key search: secrets are tried on the suspect until one fits by chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wmlightning.attacks.base import Claim, ClaimAttack, Stolen
from wmlightning.attacks.claims import matching
from wmlightning.attacks.marking import claimed_marks
from wmlightning.config import setting
from wmlightning.errors import UserError
from wmlightning.secret import Secret
from wmlightning.seeds import role_seed


class KeySearch(ClaimAttack):
    """Draws secrets, keeps the one whose triggers the suspect answers best, and claims to have held it all along.

    Of N keys the best has a p-value of about 1/N, whatever the suspect: the p-value holds for a key that was drawn
    without a look at it. That is why a commitment must be older than the suspect.

    Args:
        watermark: the accuser's, as in ``conf/watermark``; of several marks.
        candidates: numbers of secrets; the best of so many is claimed.
        queries: triggers of each that the suspect is asked about.
    """

    effort_name = "secrets tried"

    def __init__(
        self, watermark: Mapping[str, Any], candidates: Sequence[int] = (1, 10, 100, 1000, 3000), queries: int = 40
    ) -> None:
        self.marks = claimed_marks(watermark, "attack.keysearch.watermark")
        key = "attack.keysearch.candidates"
        if not isinstance(candidates, Sequence) or not candidates:
            raise UserError(key, f"{candidates!r} is no list", "[1,100,1000]")
        self.candidates = sorted({setting(number, key, int, 1) for number in candidates})
        self.queries = setting(queries, "attack.keysearch.queries", int, self.marks.scheme.n_marks)

    def run(self, stolen: Stolen) -> Iterator[Claim]:
        """See :meth:`ClaimAttack.run`. The effort is the number of secrets that the best was chosen from."""
        first = Secret.from_seed(role_seed(stolen.seed, "accuser/secrets"))
        labels, asked = stolen.true_labels()
        network = stolen.copy()
        best, smallest = first, float("inf")
        for tried in range(1, self.candidates[-1] + 1):
            secret = first.derive(f"candidate/{tried}")
            maker = self.key_maker(stolen, labels, secret)
            p = matching(maker.make().trained, maker, network, stolen.arithmetic).p_value
            if p < smallest:
                best, smallest = secret, p
            if tried in self.candidates:
                yield Claim(best, tried, n_queries=asked + tried * self.queries, before=tried == 1)
