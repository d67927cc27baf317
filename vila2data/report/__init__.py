"""One self-contained page about builds."""
