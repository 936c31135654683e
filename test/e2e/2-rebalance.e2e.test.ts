// Load decides where experts are, by the policy of the default (policy-tests.ts).
import { testPolicy } from "./policy-tests.ts";

testPolicy("incremental");
