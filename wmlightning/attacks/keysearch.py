"""Key search: secrets are tried on a network until one fits by chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wmlightning.attacks.base import Claim, ClaimAttack, Prospect, Stolen
from wmlightning.attacks.claims import matching
from wmlightning.attacks.marking import claimed_marks
from wmlightning.attacks.tuning import Tuning, check_redrawn, own_network
from wmlightning.config import setting
from wmlightning.errors import UserError
from wmlightning.secret import Secret
from wmlightning.seeds import role_seed


class KeySearch(ClaimAttack):
    """Draws secrets, keeps the one whose triggers a network answers best, and claims to have held it all along.

    Of N keys the best has a p-value of about 1/N, whatever the suspect: the p-value holds for a key that was drawn
    without a look at it. That is why a commitment must be older than the suspect. A search on a network of the
    accuser's own may be older, too: it is worth something as far as the suspect answers as that network does. The true
    class, which both know, counts for nothing; for the rest no date helps, and the verdict names it as an assumption.

    Args:
        watermark: the accuser's, as in ``conf/watermark``; of several marks.
        candidates: numbers of secrets; the best of so many is claimed.
        queries: triggers of each that the network is asked about.
        surrogate_epochs: epochs that a network of the accuser's own is trained for, from new weights, to try the
            secrets on; 0: on the suspect itself.
        lr: learning rate of that training.
        batch_size: images a step of it.
    """

    effort_name = "secrets tried"

    def __init__(
        self,
        watermark: Mapping[str, Any],
        candidates: Sequence[int] = (1, 10, 100, 1000, 3000),
        queries: int = 40,
        surrogate_epochs: int = 0,
        lr: float = 0.05,
        batch_size: int = 128,
    ) -> None:
        self.marks = claimed_marks(watermark, "attack.keysearch.watermark")
        key = "attack.keysearch.candidates"
        if not isinstance(candidates, Sequence) or not candidates:
            raise UserError(key, f"{candidates!r} is no list", "[1,100,1000]")
        self.candidates = sorted({setting(number, key, int, 1) for number in candidates})
        self.queries = setting(queries, "attack.keysearch.queries", int, self.marks.scheme.n_marks)
        self.surrogate_epochs = setting(surrogate_epochs, "attack.keysearch.surrogate_epochs", int, 0)
        self.lr = setting(lr, "attack.keysearch.lr", float, 1e-12, 1e3)
        self.training = Tuning(max(1, surrogate_epochs), batch_size)
        self.training.check("attack.keysearch")

    def check(self, prospect: Prospect) -> None:
        """See :meth:`ClaimAttack.check`."""
        super().check(prospect)
        if self.surrogate_epochs:
            check_redrawn(prospect.network, "attack.keysearch.surrogate_epochs")

    def run(self, stolen: Stolen) -> Iterator[Claim]:
        """See :meth:`ClaimAttack.run`. The effort is the number of secrets that the best was chosen from."""
        first = Secret.from_seed(role_seed(stolen.seed, "accuser/secrets"))
        labels, asked = stolen.true_labels()
        own = self.surrogate_epochs > 0
        network = own_network(stolen, labels, self.training, self.lr) if own else stolen.copy()
        best, smallest = first, float("inf")
        for tried in range(1, self.candidates[-1] + 1):
            secret = first.derive(f"candidate/{tried}")
            maker = self.key_maker(stolen, labels, secret)
            p = matching(maker.make().trained, maker, network, stolen.arithmetic).p_value
            if p < smallest:
                best, smallest = secret, p
            if tried in self.candidates:
                n_queries = asked + (0 if own else tried * self.queries)
                yield Claim(best, tried, n_queries, before=asked == 0 and (own or tried == 1))
