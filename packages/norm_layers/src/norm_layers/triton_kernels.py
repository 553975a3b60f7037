"""Triton kernels that normalise a matrix by groups of its columns, and their derivative.

Pieces are runs or segments of columns (`plan.py`), all rows of which have one group. A program reduces a piece over a
chunk of rows; another combines what belongs to a group or a channel; the last kind scales and shifts a block of
columns. In a channels_last matrix a piece is a single column, so programs take blocks of them (PER_COLUMN).
Sums are float32 and centred, and a mean is corrected by the mean of the distances from it.
"""

# mypy: allow-untyped-defs

import triton
import triton.language as tl


@triton.jit
def moments_kernel(
    x,
    starts,
    means,
    squares,
    rows,
    columns,
    num_pieces,
    chunk_rows,
    PER_COLUMN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Mean and squared distances from it of each piece over each chunk of rows."""
    piece, chunk = tl.program_id(0), tl.program_id(1)
    if PER_COLUMN:
        first = piece * COLUMNS
        last = tl.minimum(first + COLUMNS, columns)
    else:
        first = tl.load(starts + piece)
        last = tl.load(starts + piece + 1)
    column = first + tl.arange(0, COLUMNS)
    inside = column < last
    begin = chunk * chunk_rows
    end = tl.minimum(begin + chunk_rows, rows)
    mean = tl.zeros([COLUMNS], tl.float32)
    square = tl.zeros([COLUMNS], tl.float32)
    for row in range(begin, end, ROWS):
        index = row + tl.arange(0, ROWS)
        mask = (index < end)[:, None] & inside[None, :]
        at = index[:, None].to(tl.int64) * columns + column[None, :]
        values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        count = tl.minimum(end - row, ROWS).to(tl.float32)
        done = (row - begin).to(tl.float32)
        tile_mean = tl.sum(values, axis=0) / count
        centred = tl.where(mask, values - tile_mean[None, :], 0.0)
        offset = tl.sum(centred, axis=0) / count
        tile_square = tl.sum(centred * centred, axis=0) - offset * offset * count
        share = count / (done + count)
        distance = tile_mean + offset - mean
        mean += distance * share
        square += tile_square + distance * distance * (share * done)
    if PER_COLUMN:
        tl.store(means + chunk * num_pieces + column, mean, mask=inside)
        tl.store(squares + chunk * num_pieces + column, square, mask=inside)
    else:
        width = (last - first).to(tl.float32)
        piece_mean = tl.sum(tl.where(inside, mean, 0.0), axis=0) / width
        between = tl.where(inside, mean - piece_mean, 0.0)
        within = tl.sum(tl.where(inside, square, 0.0), axis=0)
        offset = tl.sum(between, axis=0) / width
        spread = (end - begin).to(tl.float32) * (tl.sum(between * between, axis=0) - offset * offset * width)
        tl.store(means + chunk * num_pieces + piece, piece_mean + offset)
        tl.store(squares + chunk * num_pieces + piece, within + spread)


@triton.jit
def combine_moments_kernel(
    means,
    squares,
    starts,
    group_offsets,
    statistics,
    rows,
    num_pieces,
    num_groups,
    num_chunks,
    chunk_rows,
    eps,
    UNBIASED: tl.constexpr,
    PIECES: tl.constexpr,
):
    """Mean, reciprocal standard deviation and variance of each group from those of its pieces."""
    group = tl.program_id(0)
    first, last = tl.load(group_offsets + group), tl.load(group_offsets + group + 1)
    total = 0.0
    count = 0.0
    for chunk in range(num_chunks):
        chunk_size = tl.minimum(chunk_rows, rows - chunk * chunk_rows).to(tl.float32)
        for at in range(first, last, PIECES):
            piece = at + tl.arange(0, PIECES)
            inside = piece < last
            end = tl.load(starts + piece + 1, mask=inside, other=0)
            size = (end - tl.load(starts + piece, mask=inside, other=0)).to(tl.float32) * chunk_size
            total += tl.sum(size * tl.load(means + chunk * num_pieces + piece, mask=inside, other=0.0), axis=0)
            count += tl.sum(size, axis=0)
    mean = total / count
    distances = 0.0
    offset = 0.0
    for chunk in range(num_chunks):
        chunk_size = tl.minimum(chunk_rows, rows - chunk * chunk_rows).to(tl.float32)
        for at in range(first, last, PIECES):
            piece = at + tl.arange(0, PIECES)
            inside = piece < last
            end = tl.load(starts + piece + 1, mask=inside, other=0)
            size = (end - tl.load(starts + piece, mask=inside, other=0)).to(tl.float32) * chunk_size
            between = tl.load(means + chunk * num_pieces + piece, mask=inside, other=0.0) - mean
            offset += tl.sum(size * between, axis=0)
            within = tl.load(squares + chunk * num_pieces + piece, mask=inside, other=0.0)
            distances += tl.sum(within + size * between * between, axis=0)
    mean += offset / count
    distances -= offset * offset / count
    tl.store(statistics + group, mean)
    tl.store(statistics + num_groups + group, 1.0 / tl.sqrt(distances / count + eps))
    tl.store(statistics + 2 * num_groups + group, distances / (count - 1.0 if UNBIASED else count))


@triton.jit
def _group_of(column, num_larger, size):
    """Group of a column: the first `num_larger` groups have size + 1 columns, the others size."""
    border = num_larger * (size + 1)
    return tl.where(column < border, column // (size + 1), num_larger + (column - border) // size)


@triton.jit
def scale_kernel(
    x,
    y,
    weight,
    bias,
    statistics,
    rows,
    columns,
    num_groups,
    channel_columns,
    num_larger,
    size,
    chunk_rows,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write y = (x - mean) * (inverse * weight) + bias."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < columns
    group, channel = _group_of(column, num_larger, size), column // channel_columns
    mean = tl.load(statistics + group, mask=inside, other=0.0)
    scale = tl.load(statistics + num_groups + group, mask=inside, other=0.0)
    if HAS_WEIGHT:
        scale *= tl.load(weight + channel, mask=inside, other=0.0)
    shift = tl.load(bias + channel, mask=inside, other=0.0) if HAS_BIAS else tl.zeros([COLUMNS], tl.float32)
    begin = tl.program_id(1) * chunk_rows
    end = tl.minimum(begin + chunk_rows, rows)
    for row in range(begin, end, ROWS):
        index = row + tl.arange(0, ROWS)
        mask = (index < end)[:, None] & inside[None, :]
        at = index[:, None].to(tl.int64) * columns + column[None, :]
        values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        normalised = (values - mean[None, :]) * scale[None, :] + shift[None, :]
        tl.store(y + at, normalised.to(y.dtype.element_ty), mask=mask)


@triton.jit
def products_kernel(
    dy,
    x,
    starts,
    groups,
    statistics,
    sums,
    products,
    rows,
    columns,
    num_pieces,
    chunk_rows,
    PER_COLUMN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sums of the output gradient, and of its products with the centred input, of each piece over each chunk."""
    piece, chunk = tl.program_id(0), tl.program_id(1)
    if PER_COLUMN:
        first = piece * COLUMNS
        last = tl.minimum(first + COLUMNS, columns)
        column = first + tl.arange(0, COLUMNS)
        group = tl.load(groups + column, mask=column < last, other=0)
    else:
        first = tl.load(starts + piece)
        last = tl.load(starts + piece + 1)
        column = first + tl.arange(0, COLUMNS)
        group = tl.load(groups + piece) + tl.zeros([COLUMNS], tl.int64)
    inside = column < last
    mean = tl.load(statistics + group)
    begin = chunk * chunk_rows
    end = tl.minimum(begin + chunk_rows, rows)
    total = tl.zeros([COLUMNS], tl.float32)
    product = tl.zeros([COLUMNS], tl.float32)
    for row in range(begin, end, ROWS):
        index = row + tl.arange(0, ROWS)
        mask = (index < end)[:, None] & inside[None, :]
        at = index[:, None].to(tl.int64) * columns + column[None, :]
        gradient = tl.load(dy + at, mask=mask, other=0.0).to(tl.float32)
        values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(gradient, axis=0)
        product += tl.sum(gradient * (values - mean[None, :]), axis=0)
    if PER_COLUMN:
        tl.store(sums + chunk * num_pieces + column, total, mask=inside)
        tl.store(products + chunk * num_pieces + column, product, mask=inside)
    else:
        tl.store(sums + chunk * num_pieces + piece, tl.sum(total, axis=0))
        tl.store(products + chunk * num_pieces + piece, tl.sum(product, axis=0))


@triton.jit
def combine_products_kernel(
    sums,
    products,
    starts,
    groups,
    channels,
    offsets,
    weight,
    statistics,
    terms,
    affine,
    rows,
    num_pieces,
    num_groups,
    num_channels,
    num_chunks,
    HAS_WEIGHT: tl.constexpr,
    PIECES: tl.constexpr,
):
    """Per group, what every value's gradient takes from the group; per channel, the gradients of weight and bias."""
    index = tl.program_id(0)
    is_group = index < num_groups
    place = tl.where(is_group, index, index + 1)  # the offsets of groups end before those of channels begin
    first, last = tl.load(offsets + place), tl.load(offsets + place + 1)
    total = 0.0
    product = 0.0
    columns = 0.0
    for at in range(first, last, PIECES):
        piece = at + tl.arange(0, PIECES)
        inside = piece < last
        piece_sum = tl.zeros([PIECES], tl.float32)
        piece_product = tl.zeros([PIECES], tl.float32)
        for chunk in range(num_chunks):
            piece_sum += tl.load(sums + chunk * num_pieces + piece, mask=inside, other=0.0)
            piece_product += tl.load(products + chunk * num_pieces + piece, mask=inside, other=0.0)
        end = tl.load(starts + piece + 1, mask=inside, other=0)
        columns += tl.sum((end - tl.load(starts + piece, mask=inside, other=0)).to(tl.float32), axis=0)
        if is_group:
            if HAS_WEIGHT:
                channel = tl.load(channels + piece, mask=inside, other=0)
                gain = tl.load(weight + channel, mask=inside, other=0.0)
                piece_sum *= gain
                piece_product *= gain
        else:
            group = tl.load(groups + piece, mask=inside, other=0)
            piece_product *= tl.load(statistics + num_groups + group, mask=inside, other=0.0)
        total += tl.sum(piece_sum, axis=0)
        product += tl.sum(piece_product, axis=0)
    if is_group:
        inverse = tl.load(statistics + num_groups + index)
        per_value = -inverse / (columns * rows)
        tl.store(terms + index, per_value * total)
        tl.store(terms + num_groups + index, per_value * inverse * inverse * product)
    else:
        tl.store(affine + index - num_groups, product)
        tl.store(affine + num_channels + index - num_groups, total)


@triton.jit
def gradient_kernel(
    dy,
    x,
    dx,
    weight,
    statistics,
    terms,
    rows,
    columns,
    num_groups,
    channel_columns,
    num_larger,
    size,
    chunk_rows,
    HAS_WEIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write dx = dy * (inverse * weight) + (x - mean) * slope + shift, slope and shift being the group's."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < columns
    group = _group_of(column, num_larger, size)
    mean = tl.load(statistics + group, mask=inside, other=0.0)
    scale = tl.load(statistics + num_groups + group, mask=inside, other=0.0)
    if HAS_WEIGHT:
        scale *= tl.load(weight + column // channel_columns, mask=inside, other=0.0)
    shift = tl.load(terms + group, mask=inside, other=0.0)
    slope = tl.load(terms + num_groups + group, mask=inside, other=0.0)
    begin = tl.program_id(1) * chunk_rows
    end = tl.minimum(begin + chunk_rows, rows)
    for row in range(begin, end, ROWS):
        index = row + tl.arange(0, ROWS)
        mask = (index < end)[:, None] & inside[None, :]
        at = index[:, None].to(tl.int64) * columns + column[None, :]
        gradient = tl.load(dy + at, mask=mask, other=0.0).to(tl.float32)
        centred = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean[None, :]
        result = gradient * scale[None, :] + (centred * slope[None, :] + shift[None, :])
        tl.store(dx + at, result.to(dx.dtype.element_ty), mask=mask)
