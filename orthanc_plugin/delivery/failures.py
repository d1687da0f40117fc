"""Why something was not delivered.

The rule: a message names no patient, no secret, and nothing that the receiver said in words.

::

    DeliveryFailed
      ReceiverAway     nothing can be given to it now: whatever is owed to it waits
      TakenLater       it does not take this study now: it is tried again, others go on
      Refused          it will not have it, whatever is tried: a person has to look
    Waiting            all is well: it is to be looked at again
"""

from __future__ import annotations


class DeliveryFailed(Exception):
    """It was not taken, or not all of it."""


class ReceiverAway(DeliveryFailed):
    """Nothing can be given to the receiver now."""


class TakenLater(DeliveryFailed):
    """The receiver does not take this study now."""


class Refused(DeliveryFailed):
    """The receiver will not have this study."""


class Waiting(Exception):
    """The receiver has it, and still has to confirm something.

    Parameters
    ----------
    seconds
        After which to look again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:g} s")
        self.seconds = seconds
