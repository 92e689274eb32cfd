/* The marks between which inscount.c counts, for Python's ctypes. */
void mark_start(void) { __asm__ volatile("hint #0x60" ::: "memory"); }
void mark_stop(void) { __asm__ volatile("hint #0x61" ::: "memory"); }
