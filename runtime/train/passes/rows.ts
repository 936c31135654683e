// Gathers rows for a token's experts and adds them back. The place of a token's k-th expert is token * topK + k.

export interface PlaceShape {
  readonly topK: number;
  readonly width: number;
}

/** The places of each expert, in token order. */
export function placesByExpert(ids: Int32Array, experts: number): readonly number[][] {
  const places = Array.from({ length: experts }, (): number[] => []);
  for (const [place, id] of ids.entries()) places[id]?.push(place);
  return places;
}

/** The first `width` values of the rows at these places; each row has `stride`. */
export function gathered(rows: Float32Array, places: readonly number[], { topK, width }: PlaceShape, stride = width): Float32Array {
  const found = new Float32Array(places.length * width);
  for (const [to, place] of places.entries()) {
    const from = Math.floor(place / topK) * stride;
    found.set(rows.subarray(from, from + width), to * width);
  }
  return found;
}

export function scatter(rows: Float32Array, places: readonly number[], width: number, into: Float32Array): void {
  for (const [from, place] of places.entries()) into.set(rows.subarray(from * width, (from + 1) * width), place * width);
}

/** Adds the values at its places to each row's first `width` values, in order, times their gates if any. */
export function addPlaces(rows: Float32Array, places: Float32Array, { topK, width }: PlaceShape, gates?: Float32Array): void {
  const tokens = places.length / width / topK;
  const stride = rows.length / Math.max(1, tokens);
  for (let place = 0; place * width < places.length; place++) {
    const gate = gates?.[place] ?? 1;
    let to = Math.floor(place / topK) * stride;
    for (let from = place * width; from < (place + 1) * width; from++, to++)
      rows[to] = (rows[to] as number) + Math.fround(gate * (places[from] as number));
  }
}
