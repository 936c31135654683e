// The version of the command, as package.json has it; operator and chart of a release have the same.
import packageJson from "../../package.json" with { type: "json" };

export const { version } = packageJson;
