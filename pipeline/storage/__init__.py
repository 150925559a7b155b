"""All that opens files of a job. Entered by ``source``, ``checkpoint`` and ``output``."""
