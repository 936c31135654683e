// Changes of every field of spec.model.resources, by their paths.
const kinds = ["requests", "limits"];
const names = ["cpu", "memory", "ephemeral-storage"];
const paths = kinds.flatMap((kind) => names.map((name) => `model.resources.${kind}.${name}`));

export const modelResourceChanges: Readonly<Record<string, string>> = Object.fromEntries(paths.map((path) => [path, "7"]));
