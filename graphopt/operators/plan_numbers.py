"""Numbers by which kernels plan their work: their C begins with them, and predictions of their time count by them."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class PlanNumbers:
    """Sizes of blocks and tiles, and what plans are weighed by.

    Attributes:
        wide_rows: rows of sums that a block holds in the registers of AVX-512.
        depth_run: products that are summed at once.
        few_columns: columns that are summed as dot products.
        split_rows: rows that the matrix unit multiplies by all weights before the next ones.
        unit_rows: rows of a tile of the matrix unit; it has as many columns.
        unit_depth: depth of such a tile.
        parts: tiles of bfloat16 that a tile of float32 is split into.
        unit_tile_cycles: cycles of the matrix unit for a product of tiles.
        unit_left_cycles: for an element of the left operand, which is split.
        unit_result_cycles: for a result.
        unit_weight_cycles: for a weight.
        vector_sum_cycles: cycles of the vector unit for a vector of products.
        vector_left_cycles: for an element of the left operand.
        vector_result_cycles: for a result.
        vector_weight_cycles: for a weight.
        most_blocks: blocks of output channels that a convolution sums at once.
        sum_run: its products that are summed at once.
        chunk_floats: floats of a chunk of its image.
        working_floats: floats of a chunk of transformed tiles.
        fewest_tiles: tiles below which transformed weights are read for few products.
        tile_operations: vector operations of the transforms of a tile,
        place_operations: and for each of its places.
        weight_operations: vector operations that take as long as reading a vector of weights.
        transform_share: share of the work of direct sums below which transforms are taken.
        most_unit_stride: of convolutions by the matrix unit.
        near_parts_bytes: bytes of the parts of a chunk of an image where weights stay in the second-level cache,
        far_parts_bytes: and where they do not.
        far_weights: bytes of all weights beyond which they do not stay.
        even_step_cycles: cycles of the matrix unit for a step of a tile of windows and a block of channels,
        odd_step_cycles: where the number of blocks is odd,
        window_tile_cycles: and for the tile itself.
        split_pixel_cycles: for splitting 32 channels of a pixel.
        fetched_byte_cycles: for a byte of weights.
        cycle_operations: vector operations in a cycle of the above,
        unit_operations: and those that the unit costs once.
        stacked_rows: rows on top of each other that a reduction adds up at once,
        strip: and their columns.
    """

    wide_rows: int = 14
    depth_run: int = 256
    few_columns: int = 4
    split_rows: int = 256
    unit_rows: int = 16
    unit_depth: int = 32
    parts: int = 3
    unit_tile_cycles: float = 180.0
    unit_left_cycles: float = 1.1
    unit_result_cycles: float = 0.5
    unit_weight_cycles: float = 0.6
    vector_sum_cycles: float = 0.58
    vector_left_cycles: float = 0.25
    vector_result_cycles: float = 0.4
    vector_weight_cycles: float = 0.14
    most_blocks: int = 4
    sum_run: int = 160
    chunk_floats: int = 40960
    working_floats: int = 5 << 16
    fewest_tiles: int = 24
    tile_operations: float = 40.0
    place_operations: float = 6.0
    weight_operations: float = 10.0
    transform_share: float = 0.9
    most_unit_stride: int = 4
    near_parts_bytes: int = 3 << 18
    far_parts_bytes: int = 1200 << 10
    far_weights: int = 3 << 18
    even_step_cycles: float = 265.0
    odd_step_cycles: float = 300.0
    window_tile_cycles: float = 150.0
    split_pixel_cycles: float = 24.0
    fetched_byte_cycles: float = 0.125
    cycle_operations: float = 1.75
    unit_operations: float = 2000.0
    stacked_rows: int = 64
    strip: int = 1024


PLAN = PlanNumbers()


def definitions() -> str:
    """The numbers as C: ``#define WIDE_ROWS 14``."""
    return "\n".join(f"#define {field.name.upper()} {getattr(PLAN, field.name)!r}" for field in fields(PLAN))
