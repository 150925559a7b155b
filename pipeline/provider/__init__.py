"""All that knows of HTTP. Entered by :mod:`pipeline.provider.ask` alone."""
