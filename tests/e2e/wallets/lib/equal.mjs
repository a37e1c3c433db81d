// Field by field comparison; what may differ is named here or at the step, each with its reason in README.md.

/** Fields of a block: this chain has no state trie, and two clocks never agree. */
export const BLOCK_FIELDS = ["hash", "parentHash", "timestamp", "mixHash", "stateRoot", "transactionsRoot", "receiptsRoot", "size"];
/** Fields anywhere else that repeat a block's hash or time. */
export const PLACE_FIELDS = ["blockHash", "blockTimestamp"];
/** Fields that a receipt has on one side only: a price of blobs that are not there and a time at anvil, the revert's data here. */
export const RECEIPT_FIELDS = ["blockHash", "-blockTimestamp", "-blobGasPrice", "-revertReason"];

/** Paths at which two JSON values differ, with both values; a field named in `ignored` must only be on
 *  both sides with the same type, and one named with a minus there may be missing. */
export function differences(ours, theirs, ignored = [], path = "") {
  if (Object.is(ours, theirs)) return [];
  const isObject = (value) => typeof value === "object" && value !== null;
  if (!isObject(ours) || !isObject(theirs) || Array.isArray(ours) !== Array.isArray(theirs)) return [{ path: path || "the value", ours, theirs }];
  const names = new Set([...Object.keys(ours), ...Object.keys(theirs)]);
  return [...names].flatMap((name) => {
    const here = path ? `${path}.${name}` : name;
    if (ignored.includes(`-${name}`)) return [];
    if (ignored.includes(name) && name in ours && name in theirs && typeof ours[name] === typeof theirs[name]) return [];
    return differences(ours[name], theirs[name], ignored, here);
  });
}
