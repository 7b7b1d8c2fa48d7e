// The page as a whole starts here.

import { explorer } from "./explorer.js";

explorer(document.getElementById("regard"));
