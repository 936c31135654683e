// The command's version from package.json; operator and chart have the same.
import packageJson from "../../package.json" with { type: "json" };

export const { version } = packageJson;
