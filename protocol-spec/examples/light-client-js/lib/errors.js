// Whose fault it is (chapter 13): a RemoteError is the peer's, a UsageError the person's, a LocalError nobody's or ours.

/** The peer broke a rule; `name` is the error's name in chapter 13. */
export class RemoteError extends Error {
  isRemote = true;

  constructor(name, message) {
    super(message);
    this.name = name;
  }
}

/** A mistake on the command line or in a file that the person gave: exit code 2. */
export class UsageError extends Error {
  name = 'UsageError';
}

/** What was asked can't be done now: exit code 1. */
export class LocalError extends Error {
  name = 'LocalError';
}

export const malformed = (message) => new RemoteError('MalformedMessage', message);
export const oversized = (message) => new RemoteError('OversizedMessage', message);
export const unexpected = (message) => new RemoteError('UnexpectedMessage', message);
