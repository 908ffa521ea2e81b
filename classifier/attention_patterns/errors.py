"""The errors that this project raises on purpose.

AttentionPatternsError
├── InvalidAttentionError       the array is not a self-attention map
│   ├── ShapeError                  not [..., L, L], empty, or with a batch axis left in
│   ├── DataTypeError               not a float type that is read
│   ├── NotFiniteError              holds NaN or infinity
│   ├── NegativeAttentionError      holds a negative value
│   ├── LogitsError                 holds scores from before the softmax
│   ├── TransposedError             its columns sum to 1, not its rows
│   ├── RowSumError                 a row does not sum to 1
│   └── NotCausalError              declared causal, but attends above the diagonal
├── InvalidDeclarationError     a declaration of the caller does not fit the input
│   ├── TokensError                 tokens do not match the length
│   ├── TokenGroupsError            a group's name is empty or taken, or a position is outside
│   ├── SegmentsError               segments do not match the length
│   ├── PaddingError                valid_length or mask does not fit
│   ├── SelectionError              a selected layer or head is not in the tensor
│   └── RequestIdError              a request's id is too long
├── BundleError                 the model bundle is missing, damaged or of another rendering
├── InvalidSettingsError        the settings of a program do not fit together
├── MissingExtraError           a package of an extra is not installed
├── SourceError                 a dump, text file, model, token file or certificate cannot be read
├── OutputError                 a part of the output could not be written
├── AbandonedError              the caller does not want the answer any more
└── ServerError                 the server could not be reached, refused the call or failed
    ├── UnreachableError            the server could not be reached, or is stopping
    ├── MessageError                a message is not of the contract
    ├── LimitError                  a limit of the server is reached
    │   ├── MessageTooLargeError        a message is over the server's limit
    │   ├── RequestLimitError           a request holds more or longer maps than the server takes
    │   ├── OverloadedError             the server has as much to do as it takes
    │   └── RateLimitError              the token's share is used up
    ├── AuthenticationError         the token is missing or not known
    ├── UnknownModelError           the server does not serve that model, or not in that version
    ├── VersionError                the server speaks another contract or reads another rendering
    ├── ModelReplacedError          the server's model was replaced between two chunks of a request
    └── DeadlineError               the server did not answer in time
"""


class AttentionPatternsError(Exception):
    """The base of all errors of this project."""


class InvalidAttentionError(AttentionPatternsError, ValueError):
    """The array is not a self-attention map."""


class ShapeError(InvalidAttentionError):
    """The array is not [..., L, L], is empty, or has a batch axis left in."""


class DataTypeError(InvalidAttentionError):
    """The array is not of a float type that is read."""


class NotFiniteError(InvalidAttentionError):
    """The map holds NaN or infinity."""


class NegativeAttentionError(InvalidAttentionError):
    """The map holds a negative value."""


class LogitsError(InvalidAttentionError):
    """The map holds scores from before the softmax."""


class TransposedError(InvalidAttentionError):
    """The map's columns sum to 1, not its rows."""


class RowSumError(InvalidAttentionError):
    """A row of the map does not sum to 1."""


class NotCausalError(InvalidAttentionError):
    """The map was declared causal, but attends above the diagonal."""


class InvalidDeclarationError(AttentionPatternsError, ValueError):
    """A declaration of the caller does not fit the input."""


class TokensError(InvalidDeclarationError):
    """The tokens do not match the length of the map."""


class TokenGroupsError(InvalidDeclarationError):
    """A token group's name is empty or taken, or one of its positions is outside the map."""


class SegmentsError(InvalidDeclarationError):
    """The segments do not match the length of the map."""


class PaddingError(InvalidDeclarationError):
    """The valid length or the mask does not fit the map."""


class SelectionError(InvalidDeclarationError):
    """A selected layer or head is not in the tensor."""


class RequestIdError(InvalidDeclarationError):
    """A request's id is too long."""


class BundleError(AttentionPatternsError):
    """The model bundle is missing, damaged, or made for another rendering."""


class InvalidSettingsError(AttentionPatternsError, ValueError):
    """The settings of a program do not fit together."""


class MissingExtraError(AttentionPatternsError, ImportError):
    """A package of an extra is not installed."""


class SourceError(AttentionPatternsError):
    """A dump, a text file, a model, a token file or a certificate cannot be read."""


class OutputError(AttentionPatternsError):
    """A part of the output could not be written."""


class AbandonedError(AttentionPatternsError):
    """The caller does not want the answer any more: the call was cancelled, or its deadline is over."""


class ServerError(AttentionPatternsError):
    """The server could not be reached, refused the call or failed.

    Attributes:
        retry_after: Seconds after which the same call may succeed; None where it will not.
    """

    retry_after: float | None = None


class UnreachableError(ServerError):
    """The server could not be reached, or is stopping."""


class MessageError(ServerError):
    """A message is not of the contract."""


class LimitError(ServerError):
    """A limit of the server is reached.

    Attributes:
        name: Name of the limit; "" where the server did not give it.
        limit: Its value; None where the server did not give it.
    """

    def __init__(self, message: str, *, name: str = "", limit: float | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.limit = limit


class MessageTooLargeError(LimitError):
    """A message is over the server's limit."""


class RequestLimitError(LimitError):
    """A request holds more maps, or longer ones, than the server takes."""


class OverloadedError(LimitError):
    """The server has as much to do as it takes; the same call may succeed later."""


class RateLimitError(LimitError):
    """The token's share of calls is used up for now."""


class AuthenticationError(ServerError):
    """The token is missing or not known to the server."""


class UnknownModelError(ServerError):
    """The server does not serve that model, or not in that version."""


class VersionError(ServerError):
    """The server speaks another version of the contract, or its model reads another rendering."""


class ModelReplacedError(ServerError):
    """The server's model was replaced between two chunks of a request; the same call succeeds when repeated."""


class DeadlineError(ServerError):
    """The server did not answer in time."""
