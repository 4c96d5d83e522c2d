// The genesis file (10.7): the network's name, its hash, its first validators.

import { taggedHash } from './blake3.js';
import { addressOf } from './ed25519.js';
import { malformed, UsageError } from './errors.js';
import * as limits from './limits.js';
import { encode, enumeration, list, optional, record, text } from './msgpack.js';
import { address, amount, basisPoints, count, digest, height, millinats, publicKey, shardCount } from './types.js';
import { checkValidators } from './validators.js';

const fields = (type, ...names) => Object.fromEntries(names.map((name) => [name, type]));

const LoraRecipe = record('LoraRecipe', { ...fields(count, 'rank', 'alpha'), layers: list(text(256, 1)) });
const Recipe = record('Recipe', {
  ...fields(count, 'passes', 'batchSegments', 'learningRateNano', 'weightDecayNano', 'segmentTokensMax'),
  lora: optional(LoraRecipe),
});
const ProbePlan = record('ProbePlan', {
  ...fields(count, 'batch', 'heldout', 'rejected', 'general', 'perturbations', 'tokensMax'),
  replacedBp: basisPoints,
  spanTokens: count,
});
const VerdictLimits = record('VerdictLimits', {
  ...fields(millinats, 'progressMargin', 'heldoutLossMax'),
  rejectedGainBp: basisPoints,
  profileDistanceMax: millinats,
  updateDistanceMaxBp: basisPoints,
});
const Params = record('Params', {
  ...fields(amount, 'transactionFee', 'proposalStakeMin', 'trainerStakeMin', 'validatorStakeMin'),
  committeeSize: count,
  tallyRule: enumeration('dynamic-threshold', 'quadratic', 'surprisingly-popular'),
  ...fields(
    basisPoints,
    'thresholdBaseBp',
    'thresholdDispersionBp',
    'thresholdFloorBp',
    'thresholdCeilingBp',
    'rejectedSlashBp',
    'equivocationSlashBp',
  ),
  ...fields(
    count,
    'voteCommitBlocks',
    'voteRevealBlocks',
    'freezeBlocks',
    'joinBlocks',
    'commitBlocks',
    'revealBlocks',
  ),
  ...fields(count, 'reportBlocks', 'graceBlocks', 'unbondingBlocks', 'epochBlocks', 'jailBlocks', 'blockIntervalMs', 'trustingPeriodMs'),
  recipe: Recipe,
  probes: ProbePlan,
  verdict: VerdictLimits,
  mintPerRound: amount,
  ...fields(basisPoints, 'informantShareBp', 'informantCapBp'),
  priceBase: amount,
  ...fields(count, 'priceKappaNano', 'licenceEpochs'),
  ...fields(basisPoints, 'feeHoldersBp', 'feeTreasuryBp'),
  ...fields(count, 'replication', 'auditsPerEpoch', 'auditBlocks'),
  auditSlashBp: basisPoints,
});
const GenesisValidator = record('GenesisValidator', { publicKey, stake: amount, onionTip: digest });
const GenesisAccount = record('GenesisAccount', { address, balance: amount });
export const Genesis = record('Genesis', {
  chainId: text(50, 1),
  timeMs: height,
  params: Params,
  validators: list(GenesisValidator, limits.VALIDATORS_MAX, 1),
  accounts: list(GenesisAccount),
  manifest: digest,
  weightsRoot: digest,
  chunksRoot: digest,
  shardCount,
  ...fields(list(digest), 'heldout', 'general', 'canaries'),
});

export const genesisHash = (genesis) => taggedHash('genesis', encode(genesis, Genesis)); // 10.7/1

/** The validators of height 1 (10.7/5). */
export function firstValidators({ validators }) {
  const set = validators.map(({ publicKey: key, stake }) => ({
    address: addressOf(key),
    publicKey: key,
    power: stake,
  }));
  set.sort((a, b) => Buffer.compare(a.address, b.address));
  return checkValidators({ validators: set });
}

/** Read the JSON text form (10.7/2): a Genesis. Throws UsageError if it is none. */
export function parseGenesis(json) {
  // JavaScript's numbers end at 2^53, so every integer becomes an object with its digits; the text form has no objects.
  const marked = json.replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g, (part) =>
    part[0] === '"' ? part : `{"int":"${part}"}`,
  );
  try {
    const genesis = Genesis.fromJson(JSON.parse(marked));
    if (!/^[a-z0-9][a-z0-9-]*$/.test(genesis.chainId)) throw malformed(`chain id ${JSON.stringify(genesis.chainId)}`);
    firstValidators(genesis);
    return genesis;
  } catch (error) {
    if (error.isRemote || error instanceof SyntaxError) throw new UsageError(`not a genesis file: ${error.message}`);
    throw error;
  }
}
