"""What every model family, source, task and recipe promises: plain functions, run on chiasm's own choices by its tests
and on those of any package by `chiasm check PACKAGE`.

The folder is the registry: a module with a BASE holds the contracts of that kind of choice, one public function each,
`contract(Trial(kind, folder))`. Its docstring's first paragraph is the promise; it raises ContractError where that is
broken, and may write into the folder, which is empty."""
