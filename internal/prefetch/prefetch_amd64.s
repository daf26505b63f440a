//go:build !portable

#include "textflag.h"

// func write(p *byte, n int)
//
// PREFETCHW is a hint: it faults nowhere, and does nothing on processors that do not have it.
// The assembler does not know it.
TEXT ·write(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), AX
	MOVQ n+8(FP), CX
	ADDQ AX, CX

line:
	BYTE $0x0F; BYTE $0x0D; BYTE $0x08 // PREFETCHW (AX)
	ADDQ $64, AX
	CMPQ AX, CX
	JLT  line
	RET
