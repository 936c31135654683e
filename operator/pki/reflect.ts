// The four Reflect metadata functions that @peculiar/x509's dependency container needs; import it first. It is no complete polyfill.
type Key = string | symbol;
const store = new WeakMap<object, Map<string, unknown>>();
const slot = (key: Key, property: Key | undefined): string => `${String(key)}\u0000${String(property ?? "")}`;

function getOwn(key: Key, target: object, property?: Key): unknown {
  return store.get(target)?.get(slot(key, property));
}

function get(key: Key, target: object, property?: Key): unknown {
  for (let at: object | null = target; at !== null; at = Object.getPrototypeOf(at) as object | null) {
    const value = getOwn(key, at, property);
    if (value !== undefined) return value;
  }
  return undefined;
}

function define(key: Key, value: unknown, target: object, property?: Key): void {
  const map = store.get(target) ?? new Map<string, unknown>();
  map.set(slot(key, property), value);
  store.set(target, map);
}

if (!("getMetadata" in Reflect)) {
  Object.assign(Reflect, {
    getMetadata: get,
    getOwnMetadata: getOwn,
    defineMetadata: define,
    hasOwnMetadata: (key: Key, target: object, property?: Key) => getOwn(key, target, property) !== undefined,
  });
}
