"""Operations on fixed inputs: what is timed, what it is compared with, and the work it is at least."""
