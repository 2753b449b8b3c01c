"""Influence: page out, make cold, bring back, collapse. Planned first, then done, and measured page by page.

`verbs` are what people call. A `Plan` (`plans`) says what an advice would do, an `Act` (`acts`) does it, an `Effect`
(`effects`) is what came of it. What each advice is about, and how its effect is seen, is in `advice`, one module for
each MADV_*. Beside these: `coldest` pages first, `swap_cache` frames that are freed, `refaults` of what was moved,
`pins` that hold pages in place, `rooms` that pages go to, `refusals` of dangerous targets.
"""
