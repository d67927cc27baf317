"""The paper's loop: train, recaption, train anew from the same start, again; then a specialist."""
