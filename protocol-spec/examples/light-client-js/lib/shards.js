export const decodeManifest = () => { throw new Error('soon'); };
export const openShard = decodeManifest;
